"""Results as DICOM objects of the study they belong to."""
