"""Stock nnU-Net: its files and folders, and its commands as programs."""
