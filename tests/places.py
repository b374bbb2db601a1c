"""Where the repository lies, and the real data that some tests use where it is present."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
