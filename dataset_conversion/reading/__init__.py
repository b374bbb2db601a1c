"""Read what lies in a download: folders, NIfTI, pictures, DICOM, annotations, label values."""
