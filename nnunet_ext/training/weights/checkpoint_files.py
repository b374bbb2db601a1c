"""Weights of a checkpoint, read without executing code from it; those of one encoder into a
network.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_ext.errors import InputError

# What nnU-Net's checkpoints hold besides tensors: numbers of its log. Nothing else is unpickled.
_SCALAR, _ARRAY = (
    np.float64().__reduce__()[0],
    np.zeros(0).__reduce__()[0],
)  # how NumPy pickles a number, an array
NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    np.ndarray,
    _SCALAR,
    _ARRAY,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # where NumPy 1 had them
    (_ARRAY, "numpy.core.multiarray._reconstruct"),
    *{type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "?")},
]

# Where checkpoints keep their weights: nnU-Net, Lightning and most others, and what tutorials
# write.
CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "net")


def read_weights(checkpoint: Path, advice: str) -> dict[str, torch.Tensor]:
    """The tensors by name that a ``.pth`` file holds under one of :data:`CONTAINERS`, or bare, on
    the CPU.

    Args:
        checkpoint: read with ``weights_only``, so nothing but tensors, plain Python and numbers is
            unpickled; a ``.safetensors`` file holds nothing else anyway.
        advice: what the user should do if that fails.

    Raises:
        InputError: missing or unreadable file, other objects in it, or no weights.
    """
    content = read_content(checkpoint, advice)
    content = content if isinstance(content, dict) else {}
    held = next(
        (content[name] for name in CONTAINERS if isinstance(content.get(name), dict)), content
    )
    weights = {
        name: value
        for name, value in held.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not weights:
        keys = ", ".join(sorted(map(str, content))[:8])
        raise InputError(
            f"{checkpoint}: no weights in it, neither bare nor under {', '.join(CONTAINERS)}, "
            f"only: {keys or 'nothing'}; {advice}"
        )
    return weights


def read_content(checkpoint: Path, advice: str, *, mapped: bool = False) -> Any:
    """Read what a checkpoint holds, on the CPU, without executing code from it.

    Args:
        checkpoint: a ``.pth`` or ``.safetensors`` file, see :func:`read_weights`.
        advice: what the user should do if that fails.
        mapped: read tensors only when they are looked at, where PyTorch can.

    Raises:
        InputError: missing or unreadable file, or other objects in it.
    """
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; {advice}")
    try:
        return _content(checkpoint, mapped and zipfile.is_zipfile(checkpoint))
    except Exception as error:  # a torn or hostile file may raise anything
        raise InputError(
            f"{checkpoint}: not a readable checkpoint ({_reason(error)}); {advice}"
        ) from error


def _content(checkpoint: Path, mapped: bool) -> Any:
    if checkpoint.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(checkpoint, device="cpu")
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)


def _reason(error: Exception) -> str:
    """What is wrong, without PyTorch's advice to trust the file, and printable even where a hostile
    file words it.
    """
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        reason = f"it holds {foreign[1]}, and nothing but tensors, numbers and plain Python is read"
    elif isinstance(error, pickle.UnpicklingError) or not str(error):
        reason = "damaged, or not written by torch.save"
    else:
        reason = re.split(r"[.\n]", str(error))[0]
    return "".join(filter(str.isprintable, reason))[:200]


def load_encoder(encoder: nn.Module, checkpoint: Path, advice: str) -> None:
    """Copy ``encoder.*`` of an nnU-Net checkpoint into ``encoder``; the network must have the same
    shape.

    Args:
        encoder: the encoder to fill, changed in place.
        checkpoint: an nnU-Net ``.pth`` file; read without executing code from it.
        advice: what the user should do if that fails.

    Raises:
        InputError: missing or unreadable file, or weights that do not fit.
    """
    weights = read_weights(checkpoint, advice)
    own = encoder.state_dict()
    given = {
        name.removeprefix("encoder."): value
        for name, value in weights.items()
        if name.startswith("encoder.")
    }
    misfits = [name for name in own if name not in given or given[name].shape != own[name].shape]
    if misfits:
        raise InputError(
            f"{checkpoint}: {len(misfits)} of {len(own)} encoder weights do not fit, e.g. "
            f"{misfits[0]}; {advice}"
        )
    encoder.load_state_dict({name: given[name] for name in own})
