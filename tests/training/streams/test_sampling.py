"""Pairs, samples without spatial augmentation, and no leak of the domain by the sampling, on real
preprocessed data.
"""

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from nnunet_ext.errors import InputError
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE, MultiStreamTrainer
from nnunet_ext.training.streams.sampling import check_matches
from tests.miniature_plans import plans
from tests.miniature_raw import write_raw
from tests.miniature_streams import drawn, trainer_with_data

ROLE = "target_domain"
LABELLED, TARGET = "Dataset999_Miniature", "Dataset996_Target"
CASES = 5


# batches that lie ready when the pool is stopped are lost, and its thread says so
workers_stop_amid_batches = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


class CriticTrainer(MultiStreamTrainer):
    """Compares labelled samples with those of another domain."""

    required_streams: ClassVar[tuple[str, ...]] = (ROLE,)
    judges_unforced_samples: ClassVar[bool] = True


class MovedPairsTrainer(MultiStreamTrainer):
    """Draws pairs, but augments them spatially."""

    required_streams: ClassVar[tuple[str, ...]] = (ROLE,)

    def matches(self, role: str) -> dict[str, list[str]]:
        """Two target cases for each labelled one: case_01 fits case_02 and case_03."""
        folder = f"{TARGET}/{self.configuration_manager.data_identifier}"
        return {
            f"case_{i:02d}": [f"{folder}/case_{2 * i + j:02d}" for j in range(2)]
            for i in range(CASES)
        }


class PairedTrainer(MovedPairsTrainer):
    """Draws pairs that fit."""

    without_spatial_augmentation: ClassVar[tuple[str, ...]] = ("labelled", ROLE)


def content(**settings: Any) -> dict[str, Any]:
    return plans(batch_size=4, streams={ROLE: [TARGET]}, settings=settings)


def mask_of(raw: Path, case: str) -> np.ndarray:
    return np.asarray(Image.open(raw / "labelsTr" / f"{case}.png"))


def fitting_data(root: Path, shape: tuple[int, int]) -> tuple[Path, Path]:
    """Labelled discs and, for each, two unlabelled images that show the same disc."""
    labelled = write_raw(root, LABELLED, CASES, shape)
    target = write_raw(root, TARGET, 1, shape, labelled=False)
    for i in range(CASES):
        disc = mask_of(labelled, f"case_{i:02d}")
        for j in range(2):
            image = (40 + 30 * j + 80 * disc).astype(np.uint8)
            Image.fromarray(image).save(target / "imagesUn" / f"case_{2 * i + j:02d}_0000.png")
    return labelled, target


def paired_batches(
    cls: type, root: Path, workers: int, shape: tuple[int, int] = (24, 28), count: int = 25
) -> list:
    os.environ[WORKERS_VARIABLE] = str(workers)  # conftest restores the environment
    labelled, target = fitting_data(root, shape)
    made = trainer_with_data(cls, root, content(), labelled, **{ROLE: target})
    training, validation = made.get_dataloaders()
    drawn(validation, 1)
    return drawn(training, count)


def fits(labelled_key: str, target_key: str) -> bool:
    return int(target_key[-2:]) // 2 == int(labelled_key[-2:])


@workers_stop_amid_batches
@pytest.mark.parametrize("workers", [0, 2])
def test_the_keys_of_every_batch_are_pairs_and_both_matches_are_drawn(
    workers: int, tmp_path: Path
) -> None:
    batches = paired_batches(PairedTrainer, tmp_path, workers)
    pairs = [
        pair for batch in batches for pair in zip(batch["keys"], batch[ROLE]["keys"], strict=True)
    ]
    assert len(pairs) == 100 and all(fits(*pair) for pair in pairs)
    assert len({labelled for labelled, _ in pairs}) == CASES
    second = sum(int(target[-2:]) % 2 for _, target in pairs)
    assert abs(second - 50) < 3 * 5  # binomial: standard deviation 5


@workers_stop_amid_batches
def test_a_worker_draws_the_same_pairs(tmp_path: Path) -> None:
    here, in_worker = (paired_batches(PairedTrainer, tmp_path / str(n), n, count=4) for n in (0, 1))
    for ours, theirs in zip(here, in_worker, strict=True):
        assert (
            list(ours["keys"]) == list(theirs["keys"])
            and ours[ROLE]["keys"] == theirs[ROLE]["keys"]
        )
        assert torch.equal(ours["data"], theirs["data"]) and torch.equal(
            ours[ROLE]["data"], theirs[ROLE]["data"]
        )


def correlations(batches: list[dict[str, Any]]) -> np.ndarray:
    """Of every label with the image at the same place of the target batch."""
    found = []
    for batch in batches:
        labels, images = batch["target"][0], batch[ROLE]["data"]
        for label, image in zip(labels, images, strict=True):
            found.append(np.corrcoef(label.flatten().float(), image.flatten())[0, 1])
    return np.array(found)


def test_the_label_of_a_sample_lies_on_the_lesion_of_its_partner(tmp_path: Path) -> None:
    fitted = correlations(paired_batches(PairedTrainer, tmp_path / "fitted", 0))
    assert fitted.min() > 0.7  # blur, noise and low resolution are left
    assert (
        np.nanmin(correlations(paired_batches(MovedPairsTrainer, tmp_path / "augmented", 0))) < 0.3
    )


@pytest.mark.parametrize("shape", [(24, 28), (20, 12)])
def test_samples_without_spatial_augmentation_are_the_centres_of_their_cases(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    for batch in paired_batches(PairedTrainer, tmp_path, 0, shape, count=3):
        assert not batch["forced"].any()
        for key, label in zip(batch["keys"], batch["target"][0], strict=True):
            padded = np.pad(mask_of(tmp_path / LABELLED, key), 8)
            corner = [(size + 16 - 16) // 2 for size in shape]
            expected = padded[corner[0] : corner[0] + 16, corner[1] : corner[1] + 16]
            np.testing.assert_array_equal(label[0], expected)


def test_a_network_that_saw_nothing_mirrored_is_not_tested_on_it(tmp_path: Path) -> None:
    labelled, target = fitting_data(tmp_path, (20, 20))
    made = trainer_with_data(PairedTrainer, tmp_path, content(), labelled, **{ROLE: target})
    made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert made.inference_allowed_mirroring_axes is None


def test_volumes_cannot_be_paired_slice_by_slice(tmp_path: Path) -> None:
    labelled = write_raw(tmp_path, LABELLED, CASES, (3, 24, 24))
    target = write_raw(tmp_path, TARGET, 2 * CASES, (3, 24, 24), labelled=False)
    made = trainer_with_data(PairedTrainer, tmp_path, content(), labelled, **{ROLE: target})
    os.environ[WORKERS_VARIABLE] = "0"
    training, _ = made.get_dataloaders()
    with pytest.raises(
        InputError, match=r"case_\d\d has 3 slices; pairs of slices need data sets with one slice"
    ):
        next(training)


def test_matches_are_checked_before_the_first_batch(tmp_path: Path) -> None:
    labelled, target = fitting_data(tmp_path, (20, 20))
    (target / "imagesUn" / "case_07_0000.png").unlink()
    made = trainer_with_data(PairedTrainer, tmp_path, content(), labelled, **{ROLE: target})
    with pytest.raises(
        InputError,
        match=r"the match .*/case_07 of the labelled case case_03 is not in the target_dom",
    ):
        made.get_dataloaders()


def test_wrong_matches_are_named() -> None:
    with pytest.raises(
        InputError, match=r"1 of 2 labelled cases have no match in the unlabeled stream, e\.g\. b"
    ):
        check_matches("unlabeled", {"a": ["x"], "b": []}, ["a", "b"], ["x"])
    with pytest.raises(
        InputError, match="the match y of the labelled case b is not in the unlabeled stream"
    ):
        check_matches("unlabeled", {"a": ["x"], "b": ["x", "y"]}, ["a", "b"], ["x"])
    check_matches(
        "unlabeled", {"a": ["x"], "b": ["y"], "not trained on": ["z"]}, ["a", "b"], ["x", "y"]
    )


# --- no leak by sampling


def same_images_in_both_domains(root: Path) -> tuple[Path, Path]:
    labelled = write_raw(root, LABELLED, CASES, (48, 48))
    target = write_raw(root, TARGET, 1, (48, 48), labelled=False)
    for image in (labelled / "imagesTr").iterdir():
        shutil.copy(image, target / "imagesUn" / image.name)
    return labelled, target


def lesion_shares(images: torch.Tensor) -> list[float]:
    """Fraction of every sample that is as bright as a lesion: background is at -0.4, lesion at 2.4
    (z-scores).
    """
    return (images > 1).flatten(1).float().mean(1).tolist()


def standard_errors(first: list[float], second: list[float]) -> float:
    """How many standard errors the first mean lies above the second."""
    variance = np.var(first) / len(first) + np.var(second) / len(second)
    return (np.mean(first) - np.mean(second)) / np.sqrt(variance)


def test_unforced_samples_show_as_much_lesion_as_the_other_domain(tmp_path: Path) -> None:
    """Both domains hold the same images, so whatever a critic can tell them apart by is the
    sampling's doing.
    """
    labelled, target = same_images_in_both_domains(tmp_path)
    made = trainer_with_data(CriticTrainer, tmp_path, content(), labelled, **{ROLE: target})
    os.environ[WORKERS_VARIABLE] = "0"
    unforced, every, other = [], [], []
    for batch in drawn(made.get_dataloaders()[0], 120):
        assert batch["forced"].tolist() == [False, False, False, True]
        assert not batch[ROLE]["forced"].any() and "target" not in batch[ROLE]
        unforced += lesion_shares(batch["data"][~batch["forced"]])
        every += lesion_shares(batch["data"])
        other += lesion_shares(batch[ROLE]["data"])
    assert abs(standard_errors(unforced, other)) < 2
    assert (
        standard_errors(every, other) > 4
    )  # measured: 0.31 with the forced ones, 0.22 without and in the other domain


def test_forced_patches_hold_a_lesion(tmp_path: Path) -> None:
    labelled, target = same_images_in_both_domains(tmp_path)
    made = trainer_with_data(CriticTrainer, tmp_path, content(), labelled, **{ROLE: target})
    os.environ[WORKERS_VARIABLE] = "0"
    batches = drawn(made.get_dataloaders()[0], 20)
    shown = torch.cat([batch["target"][0].flatten(1).any(1) for batch in batches])
    forced = torch.cat([batch["forced"] for batch in batches])
    assert shown[forced].all() and not shown[~forced].all()


def test_a_batch_without_unforced_samples_is_refused_to_critics(tmp_path: Path) -> None:
    labelled, target = same_images_in_both_domains(tmp_path)
    settings = content(oversample_foreground_percent=1.0)
    made = trainer_with_data(CriticTrainer, tmp_path, settings, labelled, **{ROLE: target})
    with pytest.raises(
        InputError,
        match="every sample of a batch of 4 is forced to show a lesion; lower oversample",
    ):
        made.get_dataloaders()


# --- a window of its own


@pytest.mark.parametrize("augmented", [False, True])
def test_beyond_the_border_of_a_windowed_image_lies_the_windows_low_end(
    augmented: bool, tmp_path: Path
) -> None:
    labelled = write_raw(tmp_path, LABELLED, CASES, (24, 24))
    target = write_raw(tmp_path, TARGET, 1, (8, 8), labelled=False)  # half a patch
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(target / "imagesUn" / "case_00_0000.png")
    windowed = plans(batch_size=4, streams={ROLE: [TARGET]}, normalizations={ROLE: "window(0,100)"})
    made = trainer_with_data(CriticTrainer, tmp_path, windowed, labelled, **{ROLE: target})
    images = torch.cat([next(made.stream_loader(ROLE, augmented))["data"] for _ in range(5)])
    assert (images == -1).float().mean() > 0.5
    if not augmented:
        assert set(images.unique().tolist()) == {-1.0, 1.0} and (images == 1).float().mean() == 0.25
