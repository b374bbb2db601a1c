"""What users choose for any data set: labels, slices, windows, crops, sizes."""
