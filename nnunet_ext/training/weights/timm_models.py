"""Weights of timm's models, fetched only when the user asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_ext.errors import InputError, first_line

if TYPE_CHECKING:
    import torch


def fetch_weights(model: str) -> dict[str, torch.Tensor]:
    """Return all tensors of a pretrained timm model by name, from its cache or the Hub.

    Args:
        model: timm's name with the tag of its weights, such as ``resnet50.tv_in1k``.

    Raises:
        InputError: timm knows no such model or weights, or they can neither be downloaded nor found
            in the cache.
    """
    import timm

    if not timm.is_model_pretrained(model):
        raise InputError(
            f"--timm {model}: timm {timm.__version__} has no such weights; {_similar(model)}"
        )
    try:
        network = timm.create_model(model, pretrained=True)
    except Exception as error:  # of the network, the hub, a proxy or a torn file
        reason = first_line(error)[:200]
        raise InputError(
            f"--timm {model}: cannot be fetched ({reason}); connect to the internet, or fetch it "
            "on another machine and copy the file"
        ) from error
    return network.state_dict()


def _similar(model: str) -> str:
    import timm

    architecture, _, _ = model.partition(".")
    known = timm.list_pretrained(f"{architecture}.*")
    if not known:
        known = timm.list_pretrained("resnet50.*")
    examples = ", ".join(known[:5])
    return f"it has for instance {examples}"
