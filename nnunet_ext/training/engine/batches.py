"""Batches: nested dicts and lists of tensors and names."""

from typing import Any

import torch


def to_device(item: Any, device: torch.device) -> Any:
    """Move every tensor of nested dicts and lists to a device; leave everything else as it is."""
    if isinstance(item, torch.Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, list):
        return [to_device(value, device) for value in item]
    if not isinstance(item, dict):
        return item

    moved = {}
    for key, value in item.items():
        moved[key] = to_device(value, device)
    return moved
