"""The way of a hospital's study: series chosen, predicted by an nnU-Net model, and returned as
DICOM objects.
"""
