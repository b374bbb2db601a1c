"""nnunet_ext: segmentation with few or no target labels, as trainers that stock nnU-Net v2 commands
find.
"""
