"""Streams and hyperparameters inside a data set's plans: changed, checked and preprocessed."""
