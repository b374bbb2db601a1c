import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dataset_conversion.phantoms.domains import (
    SOURCE,
    SOURCE_DOMAIN,
    TARGET,
    TARGET_DOMAIN,
    UNLABELED_TARGET,
    Domain,
    domain_slice,
    write_domain_pair,
)

Slices = list[tuple[np.ndarray, np.ndarray]]


def slices(domain: Domain) -> Slices:
    return [domain_slice(domain, 3, patient, 96) for patient in range(30)]


@pytest.fixture(scope="module")
def domains() -> tuple[Slices, Slices]:
    return slices(SOURCE_DOMAIN), slices(TARGET_DOMAIN)


def test_three_data_sets_of_nnunet(tmp_path: Path) -> None:
    write_domain_pair(tmp_path, n_source=3, n_target=2, n_test=4, size=48)
    files = {path.relative_to(tmp_path).parent.as_posix(): [] for path in tmp_path.rglob("*.png")}
    for path in sorted(tmp_path.rglob("*.png")):
        files[path.relative_to(tmp_path).parent.as_posix()].append(path.name)
    expected = {
        f"{SOURCE}/imagesTr": 3,
        f"{SOURCE}/labelsTr": 3,
        f"{TARGET}/imagesTr": 2,
        f"{TARGET}/labelsTr": 2,
        f"{TARGET}/imagesTs": 4,
        f"{TARGET}/labelsTs": 4,
        f"{UNLABELED_TARGET}/imagesUn": 2,
    }
    assert {folder: len(names) for folder, names in files.items()} == expected
    for name in files[
        f"{UNLABELED_TARGET}/imagesUn"
    ]:  # the labelled target's images, and nothing of their labels
        images = [
            tmp_path / UNLABELED_TARGET / "imagesUn" / name,
            tmp_path / TARGET / "imagesTr" / name,
        ]
        assert images[0].read_bytes() == images[1].read_bytes()
    for folder, count in ((SOURCE, 3), (TARGET, 2), (UNLABELED_TARGET, 0)):
        content = json.loads((tmp_path / folder / "dataset.json").read_text())
        assert (
            content["labels"] == {"background": 0, "lesion": 1} and content["numTraining"] == count
        )
    with Image.open(tmp_path / TARGET / "labelsTs" / "test_000.png") as label:
        assert label.size == (48, 40) and set(np.unique(np.asarray(label))) <= {0, 1}


def test_equal_seeds_give_equal_files(
    tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_domain_pair(tmp_path / name, seed=seed, n_source=1, n_target=1, n_test=1, size=48)
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert first == second and first.keys() == third.keys() and first != third


def test_lesions_are_brighter_than_the_lung_in_both_domains(domains: tuple[Slices, Slices]) -> None:
    """What a network must learn is the same; a lesion at the chest wall has brighter tissue around
    it, too.
    """
    for domain in domains:
        brighter = []
        for image, label in domain:
            near = ndimage.binary_dilation(label, iterations=4) & ~ndimage.binary_dilation(
                label, iterations=1
            )
            brighter.append(np.median(image[label == 1]) > np.percentile(image[near], 20))
        assert np.mean(brighter) > 0.9


def test_contrast_is_not_monotonic() -> None:
    """No change of grey values maps the source's tissues to the target's in their order."""
    order = [
        np.argsort([grey for _, grey in domain.contrast]).tolist()
        for domain in (SOURCE_DOMAIN, TARGET_DOMAIN)
    ]
    assert order[0] == sorted(order[0]) and order[1] != sorted(order[1])


def test_domains_differ_in_noise_and_lesions(domains: tuple[Slices, Slices]) -> None:
    noise, count, area = [], [], []
    for domain in domains:
        noise.append(np.mean([image[:6, :6].std() for image, _ in domain]))  # air in the corner
        count.append(
            np.mean([ndimage.label(ndimage.binary_opening(label))[1] for _, label in domain])
        )
        area.append(np.mean([label.sum() for _, label in domain]) / count[-1])
    assert noise[1] > 1.5 * noise[0]
    assert count[1] > 1.3 * count[0]
    assert area[1] < 0.7 * area[0]
