"""Weights of one encoder, from a checkpoint into a network."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_ext.errors import InputError

# What nnU-Net's checkpoints hold besides tensors: numbers of its log. Nothing else is unpickled.
_SCALAR, _ARRAY = np.float64().__reduce__()[0], np.zeros(0).__reduce__()[0]  # how NumPy pickles a number, an array
NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    np.ndarray,
    _SCALAR,
    _ARRAY,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # where NumPy 1 had them
    (_ARRAY, "numpy.core.multiarray._reconstruct"),
    *{type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "?")},
]


def load_encoder(encoder: nn.Module, checkpoint: Path, advice: str) -> None:
    """Copy ``encoder.*`` of an nnU-Net checkpoint into ``encoder``; the network must have the same shape.

    Args:
        encoder: the encoder to fill, changed in place.
        checkpoint: an nnU-Net ``.pth`` file; read without executing code from it.
        advice: what the user should do if that fails.

    Raises:
        InputError: missing or unreadable file, or weights that do not fit.
    """
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such checkpoint for the general encoder; {advice}")
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["network_weights"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{checkpoint}: not a readable nnU-Net checkpoint ({reason}); {advice}") from error
    own = encoder.state_dict()
    given = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    misfits = [name for name in own if name not in given or given[name].shape != own[name].shape]
    if misfits:
        raise InputError(
            f"{checkpoint}: {len(misfits)} of {len(own)} encoder weights do not fit, e.g. {misfits[0]}; {advice}"
        )
    encoder.load_state_dict({name: given[name] for name in own})
