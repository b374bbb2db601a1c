"""Paths of this machine, which files for others must not name."""

import re
from typing import Any

FOLDERS = re.compile(r".*[/\\]")


def without_folders(value: Any) -> Any:
    """Return a setting; of a path, the file's name alone.

    >>> without_folders("/home/ann/lesions.pth"), without_folders(0.5)
    ('lesions.pth', 0.5)
    """
    return FOLDERS.sub("", value) if isinstance(value, str) else value
