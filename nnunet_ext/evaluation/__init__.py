"""How predictions compare with reference labels."""
