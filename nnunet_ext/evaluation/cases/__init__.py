"""Cases to compare: label files, labels, soft maps, patients, and their voxel counts."""
