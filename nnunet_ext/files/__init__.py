"""Files that are whole or not there, bounded reading, and locks."""
