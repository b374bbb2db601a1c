"""What labels are called in DICOM."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.dicom.writing.segments import KNOWN_FILE, TISSUE, segments_of
from nnunet_ext.errors import InputError


def test_segments_follow_the_label_values() -> None:
    segments = segments_of({"background": 0, "b": 2, "a": 1, "ignore": 3})
    assert [(item.number, item.label, item.values) for item in segments] == [
        (1, "a", (1,)),
        (2, "b", (2,)),
    ]
    assert {(item.category, item.type, item.lesions) for item in segments} == {
        (TISSUE, TISSUE, False)
    }
    assert segments[0].colour_rgb != segments[1].colour_rgb


@pytest.mark.parametrize(
    ("name", "meaning", "lesions"),
    [
        ("infection", "Lesion", True),
        ("lung nodule", "Nodule", True),
        ("Lungs", "Lung", False),
        ("liver_tumour", "Neoplasm", True),
        ("subdural", "Hemorrhage", True),
        ("GGO", "Ground glass opacity", True),
    ],
)
def test_usual_names_are_known(name: str, meaning: str, lesions: bool) -> None:
    (segment,) = segments_of({name: 1})
    assert (segment.type.meaning, segment.lesions, segment.label) == (meaning, lesions, name)


def test_every_known_code_is_dicoms() -> None:
    """Value, scheme and meaning as pydicom's tables of the standard have them."""
    from pydicom.sr.codedict import codes

    known = json.loads(KNOWN_FILE.read_text())["segments"]
    for entry in known.values():
        value, scheme, meaning = entry["type"]
        table = getattr(codes, scheme)
        words = "".join(word.capitalize() for word in meaning.split())
        code = getattr(
            table, next(name for name in table.dir(words) if name.casefold() == words.casefold())
        )
        assert (code.value, code.scheme_designator) == (value, scheme)


def test_regions_are_unions() -> None:
    segments = segments_of(
        {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    )
    mask = np.arange(4)
    found = {item.label: item.of(mask).tolist() for item in segments}
    assert found["whole tumor"] == [False, True, True, True]
    assert found["core"] == [False, False, True, True]
    assert found["enhancing"] == [False, False, False, True]


def test_labels_are_ascii_and_short() -> None:
    segments = segments_of({"Läsion\\a\n": 1, "病灶": 2, "x" * 99: 3})
    assert [item.label for item in segments] == ["Lasion a", "Segment 2", "x" * 64]


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "segments.json"
    entry = {
        "label": "Opacity",
        "category": ["1", "SCT", "C"],
        "type": ["2", "99X", "T"],
        "colour": [1, 2, 3],
    }
    file.write_text(json.dumps({"segments": {"lesion": {**entry, "lesions": False}}}))
    lung, lesion = segments_of({"lung": 1, "lesion": 2}, file)
    assert lung.type.meaning == "Lung"
    assert (lesion.label, lesion.category, lesion.type) == (
        "Opacity",
        ("1", "SCT", "C"),
        ("2", "99X", "T"),
    )
    assert (lesion.colour_rgb, lesion.lesions) == ((1, 2, 3), False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable as JSON"),
        ("[]", "holds no JSON object"),
        (
            '{"segments": {"lesions": {}}}',
            "names the segment 'lesions', but the model's labels are lesion",
        ),
        ('{"segments": {"lesion": {"color": 1}}}', "has the key 'color'"),
        (
            '{"segments": {"lesion": {"type": ["1", "SCT"]}}}',
            "type is not \\[value, scheme, meaning\\]",
        ),
        ('{"segments": {"lesion": {"colour": [0, 0, 256]}}}', "from 0 to 255"),
        ('{"segments": {"lesion": {"lesions": 1}}}', "lesions is true or false"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "segments.json"
    file.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        segments_of({"lesion": 1}, file)
    assert str(file) in str(caught.value)


def test_labels_without_a_segment_are_refused() -> None:
    with pytest.raises(InputError, match="no segment"):
        segments_of({"background": 0})
