import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataset_conversion.reading.label_values import (
    binary_mask,
    colour_classes,
    integer_labels,
    label_map,
)
from nnunet_ext.errors import InputError

COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
classes = arrays(np.uint8, (5, 6), elements=st.integers(0, 2))


@st.composite
def declared_and_groups(draw: st.DrawFn) -> tuple[dict[int, str], list[list[int]]]:
    values = draw(st.lists(st.integers(1, 255), min_size=1, max_size=8, unique=True))
    shuffled = draw(st.permutations(values))
    cuts = sorted(draw(st.lists(st.integers(0, len(values)), max_size=4)))
    groups = [list(part) for part in np.split(np.array(shuffled), cuts)[: len(cuts)] if len(part)]
    return {0: "background", **{value: f"label {value}" for value in values}}, groups


@given(declared_and_groups(), st.randoms(use_true_random=False))
def test_merging_keeps_who_is_with_whom(
    case: tuple[dict[int, str], list[list[int]]], random
) -> None:
    declared, groups = case
    arguments = [
        ",".join(map(str, group)) + f"=group {index}" for index, group in enumerate(groups)
    ]
    result = label_map(declared, arguments)
    assert sorted(result.names.values()) == list(range(len(result.names)))  # consecutive from 0
    assert result.names["background"] == 0
    group_of = {value: index for index, group in enumerate(groups) for value in group}
    old = np.array(random.choices(sorted(declared), k=40))
    new = result(old)
    name_of = {value: name for name, value in result.names.items()}
    for before, after in zip(old, new, strict=True):
        expected = f"group {group_of[before]}" if before in group_of else declared[before]
        assert name_of[after] == expected


def test_several_groups_and_names() -> None:
    declared = {
        0: "background",
        1: "edema",
        2: "non-enhancing tumor",
        3: "enhancing tumour",
        4: "x",
    }
    result = label_map(declared, ["Edema, 4=a", "2,3=b"])
    assert result.names == {"background": 0, "a": 1, "b": 2}
    assert result.new_value == {0: 0, 1: 1, 2: 2, 3: 2, 4: 1}
    assert result.changes
    assert not label_map(declared).changes


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["1,2"], "write VALUE"),
        (["=x"], "write VALUE"),
        (["1,9=x"], "no label '9'"),
        (["0,1=x"], "no label '0'"),
        (["1,liver=x"], "no label 'liver'"),
        (["1,2=x", "2,3=y"], "merged twice"),
        (["1,1=x"], "merged twice"),
        (["1,2=c"], "two labels"),
        (["1=x", "2=X"], "two labels"),
        (["1,2=background"], "two labels"),
        (["1,,2=x"], "no label ''"),
    ],
)
def test_wrong_groups(groups: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_map({0: "background", 1: "a", 2: "b", 3: "c"}, groups)


@pytest.mark.parametrize("value", [0.5, 3, -1, np.nan, np.inf, 256.0])
def test_only_declared_integers_pass(value: float) -> None:
    label = np.array([[0, 1], [2, value]])
    with pytest.raises(InputError, match="label values"):
        integer_labels(label, [0, 1, 2])


def test_floats_that_are_integers_pass() -> None:
    label = integer_labels(np.array([[0.0, 1.0]]), [0, 1])
    assert label.dtype == np.uint8


@given(arrays(np.bool_, (5, 6)))
def test_black_and_white(mask: np.ndarray) -> None:
    for white in (1, 255):
        label, warnings = binary_mask(mask.astype(np.uint8) * white)
        assert np.array_equal(label, mask)
        assert warnings == ()


def test_few_grey_pixels_are_thresholded_with_a_warning() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[:10] = 255
    mask[10, :3] = (1, 127, 128)
    label, warnings = binary_mask(mask)
    assert label.sum() == 201
    assert warnings == ("3 mask pixels between black and white: threshold 128",)


@pytest.mark.parametrize("values", [(0, 38, 75), (0, 1, 2), (0, 100, 255), (38, 38, 38)])
def test_other_pictures_are_no_binary_mask(values: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="binary mask"):
        binary_mask(np.array([values], np.uint8))


@given(classes)
def test_class_pictures_in_all_encodings(label: np.ndarray) -> None:
    colours = np.array(COLOURS, np.uint8)[label]
    grey = np.repeat(np.array([0, 38, 75], np.uint8)[label][..., None], 3, axis=-1)
    indices = np.repeat(label[..., None], 3, axis=-1)
    for picture in (colours, grey, indices):
        assert np.array_equal(colour_classes(picture, None, COLOURS), label)


@given(classes, st.permutations(range(3)))
def test_colours_outrank_a_reordered_palette(label: np.ndarray, order: list[int]) -> None:
    palette = np.array(COLOURS, np.uint8)[order]
    indices = np.argsort(order).astype(np.uint8)[label]
    assert np.array_equal(colour_classes(palette[indices], indices, COLOURS), label)


@given(classes)
def test_indices_count_where_the_palette_has_foreign_colours(label: np.ndarray) -> None:
    palette = np.array([(9, 9, 9), (255, 255, 0), (0, 255, 255)], np.uint8)
    assert np.array_equal(colour_classes(palette[label], label, COLOURS), label)


def test_blended_colours_are_refused() -> None:
    blend = np.array([[(0, 0, 0), (64, 64, 0)]], np.uint8)
    with pytest.raises(InputError, match="holds colours"):
        colour_classes(blend, None, COLOURS)
