"""Cross-validation of several trainers and plans with stock commands."""
