"""Tiny nnU-Net raw data sets, written directly: bright discs on noise, as PNG slices or NIfTI
volumes.
"""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image


def disc(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A mask with one ball; its slices are discs."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    center = [rng.uniform(0.3, 0.7) * size for size in shape]
    return (
        sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True)) < (0.2 * min(shape)) ** 2
    )


def write_raw(
    root: Path,
    name: str,
    cases: int,
    shape: tuple[int, ...] = (32, 32),
    labelled: bool = True,
    channels: int = 1,
    labels: dict[str, int] | None = None,
    seed: int = 0,
) -> Path:
    """Write a data set of 2D PNGs or, for three axes, NIfTI volumes of 1 x 1 x 2 mm; unlabelled
    ones go to imagesUn.
    """
    rng = np.random.default_rng(seed)
    folder, ending = root / name, ".png" if len(shape) == 2 else ".nii.gz"
    images, label_folder = folder / ("imagesTr" if labelled else "imagesUn"), folder / "labelsTr"
    images.mkdir(parents=True)
    for i in range(cases):
        mask = disc(shape, rng)
        for channel in range(channels):
            image = rng.normal(60, 12, shape) + 80 * mask
            _write(
                image.clip(0, 255).astype(np.uint8), images / f"case_{i:02d}_{channel:04d}{ending}"
            )
        if labelled:
            label_folder.mkdir(exist_ok=True)
            _write(
                mask.astype(np.uint8) * (i % 2 + 1 if labels and len(labels) > 2 else 1),
                label_folder / f"case_{i:02d}{ending}",
            )
    dataset_json = {
        "channel_names": {str(c): "lung-window CT" for c in range(channels)},
        "labels": labels or ({"background": 0, "lesion": 1} if labelled else {"background": 0}),
        "numTraining": cases if labelled else 0,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def _write(array: np.ndarray, path: Path) -> None:
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
        return
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(path))
