"""Name and version of this package, for files that others may open without it."""

import importlib.metadata

DISTRIBUTION = "nnunetv2-ext"


def made_by() -> str:
    """Return name and version, such as ``nnunetv2-ext 0.2.0``.

    The version is unknown if the package runs from a source folder.
    """
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return f"{DISTRIBUTION} {version}"
