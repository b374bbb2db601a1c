"""Segmentation with few or no target labels, as trainers for stock nnU-Net v2."""
