"""Labels that lie in DICOM objects, on the slices of the images they belong to."""
