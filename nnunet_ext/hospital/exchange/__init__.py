"""How studies come from scanners and archives, and how results go there."""
