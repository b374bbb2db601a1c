"""Weights of a checkpoint, read without executing code from it."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_ext.errors import InputError

# Besides tensors nnU-Net's checkpoints hold the numbers of its log. Nothing else is unpickled.
_SCALAR = np.float64().__reduce__()[0]  # how NumPy pickles a number
_ARRAY = np.zeros(0).__reduce__()[0]  # and an array
_TYPES = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "?")}
NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    np.ndarray,
    _SCALAR,
    _ARRAY,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # where NumPy 1 had them
    (_ARRAY, "numpy.core.multiarray._reconstruct"),
    *_TYPES,
]

# Keys of the weights in checkpoints: of nnU-Net, of Lightning and most others, of tutorials.
CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "net")


def read_weights(checkpoint: Path, advice: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors by name, on the CPU.

    They are under one of :data:`CONTAINERS`, or at the top.

    Args:
        checkpoint: read with ``weights_only``, so nothing but tensors, plain Python and numbers is
            unpickled; a ``.safetensors`` file holds nothing else anyway.
        advice: what the user should do if that fails.

    Raises:
        InputError: missing or unreadable file, other objects in it, or no weights.
    """
    content = read_content(checkpoint, advice)
    if not isinstance(content, dict):
        content = {}

    weights = {}
    for name, value in _held_by(content).items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            weights[name] = value
    if not weights:
        keys = sorted(map(str, content))
        shown = ", ".join(keys[:8]) or "nothing"
        containers = ", ".join(CONTAINERS)
        raise InputError(
            f"{checkpoint}: no weights in it, neither at the top nor under {containers}, only: "
            f"{shown}; {advice}"
        )
    return weights


def _held_by(content: dict) -> dict:
    """Return the entry of the first of :data:`CONTAINERS`, or everything."""
    for name in CONTAINERS:
        if isinstance(content.get(name), dict):
            return content[name]
    return content


def read_content(checkpoint: Path, advice: str, *, mapped: bool = False) -> Any:
    """Read what a checkpoint holds, on the CPU, without executing code from it.

    Args:
        checkpoint: a ``.pth`` or ``.safetensors`` file, see :func:`read_weights`.
        advice: what the user should do if that fails.
        mapped: read tensors only when they are used, where PyTorch can.

    Raises:
        InputError: missing or unreadable file, or other objects in it.
    """
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; {advice}")
    try:
        can_be_mapped = mapped and zipfile.is_zipfile(checkpoint)
        return _content(checkpoint, can_be_mapped)
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
    """Return what is wrong, without PyTorch's advice to trust the file.

    The text is printable, even if parts of it come from a hostile file.
    """
    text = str(error)
    foreign = re.search(r"GLOBAL (\S+)", text)
    if foreign:
        reason = f"it holds {foreign[1]}, and nothing but tensors, numbers and plain Python is read"
    elif isinstance(error, pickle.UnpicklingError) or not text:
        reason = "damaged, or not written by torch.save"
    else:
        first_sentence, *_ = re.split(r"[.\n]", text)
        reason = first_sentence

    printable = filter(str.isprintable, reason)
    return "".join(printable)[:200]


def load_encoder(encoder: nn.Module, checkpoint: Path, advice: str) -> None:
    """Copy ``encoder.*`` of an nnU-Net checkpoint into an encoder of the same shape.

    Args:
        encoder: the encoder to fill, changed in place.
        checkpoint: an nnU-Net ``.pth`` file; read without executing code from it.
        advice: what the user should do if that fails.

    Raises:
        InputError: missing or unreadable file, or weights that do not fit.
    """
    weights = read_weights(checkpoint, advice)
    filled = same_shapes(weights, "encoder", encoder)
    own = encoder.state_dict()
    misfits = [name for name in own if name not in filled]
    if misfits:
        raise InputError(
            f"{checkpoint}: {len(misfits)} of {len(own)} encoder weights do not fit, e.g. "
            f"{misfits[0]}; {advice}"
        )
    encoder.load_state_dict(filled)


def same_shapes(
    weights: Mapping[str, torch.Tensor], part: str, module: nn.Module
) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint's ``part`` that have a counterpart of equal shape.

    Args:
        weights: of the checkpoint, by name.
        part: prefix of their names, without the last dot.
        module: whose weights they are compared with; they are returned under its names.
    """
    filled = {}
    for name, own in module.state_dict().items():
        given = weights.get(f"{part}.{name}")
        if given is not None and given.shape == own.shape:
            filled[name] = given
    return filled
