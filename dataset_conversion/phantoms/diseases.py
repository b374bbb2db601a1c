"""Two generated diseases under one scanner, as nnU-Net raw data.

The target disease is faint, spread lesions with soft outlines, as ground-glass opacities are; noise
and texture of the lung hide part of them. The general disease has lesions of the same shapes, from
nearly as faint to as dense as nodules and tumours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dataset_conversion.phantoms.domains import (
    SOURCE_DOMAIN,
    domain_slices,
    write_cases,
    write_dataset_json,
    write_images,
)

MANY = "Dataset511_PhantomManyTarget"
GENERAL = "Dataset512_PhantomGeneral"
UNLABELED = "Dataset513_PhantomUnlabeled"
FEW = tuple(f"Dataset{521 + draw}_PhantomFewTarget{draw}" for draw in range(5))
POOLED = tuple(f"Dataset{531 + draw}_PhantomPooled{draw}" for draw in range(5))

_DISEASED = replace(SOURCE_DOMAIN, texture_hu=35, noise_grey=9, lesions=(1, 4), radius=(0.06, 0.22))
TARGET_DISEASE = replace(_DISEASED, lesion_hu=(-760, -530))
GENERAL_DISEASE = replace(_DISEASED, lesion_hu=(-650, 40))


def write_disease_pair(
    raw: Path,
    *,
    seed: int = 0,
    n_few: int = 3,
    n_many: int = 60,
    n_general: int = 60,
    n_test: int = 40,
    size: int = 96,
) -> None:
    """Write raw data sets: many labelled slices with a test set, few of them, the other disease,
    the few pooled with the other disease, and no labels.

    The few are drawn several times: which slices are labelled matters as much as a network's seed.

    Args:
        raw: nnU-Net's folder of raw data sets.
        seed: of everything; equal arguments give equal files.
        n_few: labelled slices of each draw, none of which is in another.
        n_many: labelled slices of the target disease, for an upper bound; without labels, the
            unlabelled data set.
        n_general: labelled slices of the general disease.
        n_test: test slices of the target disease, in imagesTs and labelsTs.
        size: width in pixels; a slice is 5/6 as high.
    """
    first_general = n_many + n_test
    patients = range(first_general + n_general)  # no patient is in two sets
    of_target = patients[:n_many]
    of_test = patients[n_many:first_general]
    of_general = patients[first_general:]
    target = domain_slices(TARGET_DISEASE, seed, of_target, size)
    test = domain_slices(TARGET_DISEASE, seed, of_test, size)
    general = domain_slices(GENERAL_DISEASE, seed, of_general, size)

    many = raw / MANY
    write_cases(many, "Tr", "target", target)
    write_cases(many, "Ts", "test", test)
    write_dataset_json(many, n_many)

    for draw, (few, pooled) in enumerate(zip(FEW, POOLED, strict=True)):
        first = draw * n_few
        drawn = target[first : first + n_few]
        write_cases(raw / few, "Tr", "target", drawn)
        write_dataset_json(raw / few, n_few)

        write_cases(raw / pooled, "Tr", "target", drawn)
        write_cases(raw / pooled, "Tr", "general", general)
        write_dataset_json(raw / pooled, n_few + n_general)

    others = raw / GENERAL
    write_cases(others, "Tr", "general", general)
    write_dataset_json(others, n_general)

    unlabelled = raw / UNLABELED
    write_images(unlabelled, "Un", "target", target)
    write_dataset_json(unlabelled, 0)
