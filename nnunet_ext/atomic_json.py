"""JSON files that are whole or not there."""

import json
from pathlib import Path
from typing import Any


def write_json(content: Any, path: Path) -> None:
    """Write beside ``path``, then rename: a kill leaves the previous file as it was."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=4))
    unfinished.replace(path)
