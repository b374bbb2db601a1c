"""Public data sets, from the folder a user downloads to nnU-Net raw data."""
