"""Write nnU-Net raw data: the run of a conversion, its cases, journal, splits and summary."""
