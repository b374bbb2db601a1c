"""The whole path on generated data, through the commands that users run."""
