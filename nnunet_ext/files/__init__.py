"""Files that are complete or absent, bounded reading, and locks."""
