"""JSON files that are complete or absent."""

import json
from pathlib import Path
from typing import Any

from nnunet_ext.files.whole_file import whole_file


def write_json(content: Any, path: Path) -> None:
    """Write JSON as :func:`~nnunet_ext.files.whole_file.whole_file`."""
    text = json.dumps(content, indent=4)
    with whole_file(path) as unfinished:
        unfinished.write_text(text)
