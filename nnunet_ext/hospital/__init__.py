"""A hospital's study: choose series, predict them with an nnU-Net model, return DICOM objects."""
