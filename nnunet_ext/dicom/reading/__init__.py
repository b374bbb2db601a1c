"""DICOM files to volumes: scan, series, geometry, pixels."""
