"""A stream's own normalisation: its values, how it is written, and what nnU-Net's preprocessor
makes of it.
"""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.location import Stream, preprocessing_fingerprint, stream_keys
from nnunet_ext.training.streams.normalization import Window
from nnunet_ext.training.streams.preprocessing import preprocess_stream
from tests.miniature_plans import plans
from tests.miniature_raw import write_raw

CT = "Dataset997_CT"
ROLE = "target_domain"


def test_a_window_is_linear_between_its_bounds_and_can_be_inverted() -> None:
    window = Window(-160, 240)
    hounsfield = np.array([-3000, -160, -60, 40, 140, 240, 3000])
    normalized = window(hounsfield)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, [-1, -1, -0.5, 0, 0.5, 1, 1], atol=1e-7)
    np.testing.assert_allclose(window.inverse(normalized), hounsfield.clip(-160, 240), atol=1e-4)


@pytest.mark.parametrize("text", ["window(0,80)", "window(-1024,-300.5)", "window(0.001,1000000)"])
def test_a_window_reads_back_as_it_is_written(text: str) -> None:
    window = Window.parse(text)
    assert str(window) == text and Window.parse(str(window)) == window


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zscore", r"unknown normalization zscore; valid are window\(LOW,HIGH\)"),
        ("window(80)", "unknown normalization"),
        ("window(nan,80)", "unknown normalization"),
        ("window(80,80)", "the first bound must lie below the second"),
        ("window(0,1e999)", "the first bound must lie below the second"),
        ("window(1-2,3)", "1-2 and 3 must be numbers"),
    ],
)
def test_impossible_normalizations_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Window.parse(text)


def write_ct(root: Path) -> tuple[Path, np.ndarray]:
    """One unlabelled volume in HU: a head of 10 to 70 HU in a frame of 0 HU, which nnU-Net would
    crop away.
    """
    raw = write_raw(root, CT, 1, (4, 24, 20), labelled=False)
    hounsfield = np.zeros((4, 24, 20), np.float32)
    hounsfield[:, 6:18, 5:15] = np.random.default_rng(0).integers(10, 71, (4, 12, 10))
    hounsfield[0, 8, 8] = 1000
    image = sitk.GetImageFromArray(hounsfield)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(raw / "imagesUn" / "case_00_0000.nii.gz"))
    return raw, hounsfield


def preprocessed(root: Path, raw: Path, manager: PlansManager, normalization: str | None) -> tuple:
    configuration = manager.get_configuration("2d")
    stream = Stream.locate(ROLE, CT, root / "pre", configuration, normalization)
    preprocess_stream(stream, raw, manager, "2d", 1)
    data, segmentation, _, properties = nnUNetDatasetBlosc2(
        str(stream.folder), ["case_00"]
    ).load_case("case_00")
    return data[0], segmentation[0], properties


def test_a_windowed_stream_is_cropped_at_its_lower_bound_and_needs_no_other_statistics(
    tmp_path: Path,
) -> None:
    raw, hounsfield = write_ct(tmp_path)
    manager = PlansManager(plans())
    as_planned, *_ = preprocessed(tmp_path, raw, manager, None)
    whole, segmentation, properties = preprocessed(tmp_path, raw, manager, "window(-10,80)")
    np.testing.assert_allclose(
        whole, (hounsfield.clip(-10, 80) + 10) / 45 - 1, atol=1e-6
    )  # 0 HU is tissue
    assert not segmentation[:].any()  # nothing lies outside
    assert properties["class_locations"] == {}

    cropped, *_ = preprocessed(tmp_path, raw, manager, "window(0,80)")
    assert as_planned.shape == cropped.shape == (4, 12, 10)
    np.testing.assert_allclose(cropped, hounsfield[:, 6:18, 5:15].clip(0, 80) / 40 - 1, atol=1e-6)


def test_an_image_of_nothing_but_background_keeps_its_size(tmp_path: Path) -> None:
    raw, hounsfield = write_ct(tmp_path)
    data, *_ = preprocessed(tmp_path, raw, PlansManager(plans()), "window(2000,3000)")
    assert data.shape == hounsfield.shape and (data[:] == -1).all()


def test_both_normalizations_lie_side_by_side_and_each_plans_entry_finds_its_own(
    tmp_path: Path,
) -> None:
    raw, _ = write_ct(tmp_path)
    keys = {}
    for normalization in (None, "window(0,80)", "window(-20,100)"):
        own = {} if normalization is None else {ROLE: normalization}
        manager = PlansManager(plans(streams={ROLE: [CT]}, normalizations=own))
        arguments = (ROLE, [CT], str(tmp_path / "pre"), manager, manager.get_configuration("2d"))
        with pytest.raises(InputError, match="is not preprocessed"):
            stream_keys(*arguments)
        preprocessed(tmp_path, raw, manager, normalization)
        (keys[normalization],) = stream_keys(*arguments)
    assert len(set(keys.values())) == 3


def test_the_fingerprint_of_streams_without_a_window_is_as_it_was(tmp_path: Path) -> None:
    manager = PlansManager(plans())
    configuration = manager.get_configuration("2d")
    without = preprocessing_fingerprint(manager, configuration)
    assert "normalization" not in without
    assert preprocessing_fingerprint(manager, configuration, Window(0, 80)) == {
        **without,
        "normalization": "window(0,80)",
        "cropped": "above the lower bound",
    }
