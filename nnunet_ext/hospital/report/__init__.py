"""The page that a radiologist reads: one HTML file per study, and an index."""
