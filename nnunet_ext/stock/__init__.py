"""What stock nnU-Net has on disk, and its commands as programs."""
