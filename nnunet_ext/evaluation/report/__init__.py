"""What an evaluation writes: tables, texts, figures."""
