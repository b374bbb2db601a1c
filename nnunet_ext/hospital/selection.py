"""Which series of a study a model gets: conditions, preferences, and a fixed tie-break.

Rules are a JSON file, or one of the :data:`BUILT_IN` ones::

    {
      "minimum_slices": 10,
      "derived": false,
      "channels": {
        "CT": {
          "modality": "CT", "not_description": "MIP|lung",
          "step_mm": [0.5, 5], "slices": [20, 2000],
          "prefer": [{"kernel": "^B3|STANDARD"}, {"kernel": "^B4"}]
        }
      }
    }

Channels have the names, or the numbers, of the model's ``channel_names``. Texts are regular
expressions, searched for in the header's value, upper and lower case alike. Of the series that meet
all conditions, that comes first which meets the earliest entry of ``prefer``; then the one with the
most slices; then the lowest series number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.reading.rules import Rules
from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object

TEXT_FIELDS = ("image_type", "kernel", "description", "body_part")  # of a slice
AXIAL_COSINE = 0.7  # least, between the normal of the slices and the axis of the body
RANGES = ("step_mm", "thickness_mm", "slices")
MODALITIES = ("CT", "MR")
MR_WORDS = r"^(MRI?|T1|T2|FLAIR|ADC|DWI|PD|SWI)"

NO_SCAN_TEXT = r"scout|topogram|localizer|surview|\bMIP\b|MPR|dose|sagittal|coronal|3D"
BUILT_IN: dict[str, dict[str, Any]] = {
    "any": {"not_description": NO_SCAN_TEXT},
    "chest": {
        "not_description": NO_SCAN_TEXT,
        "not_body_part": "head|brain|skull|neck|knee|foot|hand|pelvis",
        "axial": True,
        "step_mm": [0.4, 10],
        "slices": [20, 3000],
        "prefer": [
            {"step_mm": [0.4, 3], "kernel": r"^(B[34]|Br[34]|I[34]|STANDARD|SOFT|FC0|FC1|B$|C$)"},
            {"step_mm": [0.4, 3], "not_kernel": r"BONE|EDGE"},
            {"not_kernel": r"BONE|EDGE"},
        ],
    },
    "head": {
        "not_description": NO_SCAN_TEXT,
        "not_body_part": "chest|thorax|lung|abdomen|pelvis|spine|knee|foot|hand",
        "step_mm": [0.4, 10],
        "slices": [10, 1000],
        "prefer": [
            {
                "step_mm": [2, 6],
                "kernel": r"^(H[234]|Hr[234]|J[34]|STANDARD|SOFT|FC2|FC6|UA|UB|B$|C$)",
            },
            {"kernel": r"^(H[234]|Hr[234]|J[34]|STANDARD|SOFT|FC2|FC6|UA|UB|B$|C$)"},
            {"not_kernel": r"BONE|EDGE|^H[67]|^Hr[67]"},
        ],
    },
}
"""Rules for one channel of CT; kernels are those that vendors recommend for soft tissue."""


@dataclass(frozen=True)
class Conditions:
    """What a series must be.

    ``wanted`` and ``unwanted`` hold a pattern for some of :data:`TEXT_FIELDS`, ``ranges`` the least
    and the largest value of some of :data:`RANGES`.
    """

    modality: str = ""
    wanted: tuple[tuple[str, re.Pattern[str]], ...] = ()
    unwanted: tuple[tuple[str, re.Pattern[str]], ...] = ()
    ranges: tuple[tuple[str, tuple[float, float]], ...] = ()
    axial: bool = False

    def unmet(self, acquisition: Acquisition) -> str:
        """Return the first condition that a series does not meet; empty if none.

        The words quote no header.
        """
        first = acquisition.slices[0]
        if self.modality and first.modality != self.modality:
            return f"modality is not {self.modality}"
        if self.axial and abs(acquisition.stack.directions[2, 2]) < AXIAL_COSINE:
            return "is not axial"

        for name, pattern in self.wanted:
            text = _text(acquisition, name)
            if not pattern.search(text):
                return f"{name} does not match the rules"
        for name, pattern in self.unwanted:
            text = _text(acquisition, name)
            if pattern.search(text):
                return f"{name} is one that the rules exclude"
        return self._outside(acquisition)

    def _outside(self, acquisition: Acquisition) -> str:
        """Return the first range that a series lies outside; empty if none."""
        for name, (least, largest) in self.ranges:
            value = _number(acquisition, name)
            wanted = f"{least:g} to {largest:g}"
            if value is None:
                return f"{name} is not stated, not {wanted}"
            if not least <= value <= largest:
                return f"{name} is {value:g}, not {wanted}"
        return ""


@dataclass(frozen=True)
class Channel:
    """One input of the model.

    ``required`` says what its series must be, ``preferred`` which ones come first, the best first.
    """

    name: str
    required: Conditions
    preferred: tuple[Conditions, ...] = ()

    def rank(self, acquisition: Acquisition) -> tuple:
        """Return the place of an acceptable series; the lowest is the best, no two are equal."""
        place = 0
        while place < len(self.preferred) and self.preferred[place].unmet(acquisition):
            place += 1

        first = acquisition.slices[0]
        number = first.series_number if first.series_number is not None else 1 << 40
        return (
            place,
            -len(acquisition.slices),
            number,
            first.series_uid,
            acquisition.index,
            first.path,
        )


@dataclass(frozen=True)
class Selection:
    """The channels of a model in their order, and what the reader of DICOM accepts at all."""

    channels: tuple[Channel, ...]
    rules: Rules


@dataclass(frozen=True)
class Choice:
    """The series of a study for each channel; without any, ``missing`` says why.

    ``reasons`` holds the reason of each other series.
    """

    acquisitions: tuple[Acquisition, ...]
    missing: str
    reasons: dict[int, str]


def read_selection(rules: str | None, channel_names: Sequence[str]) -> Selection:
    """Return the rules for a model's channels.

    Args:
        rules: a JSON file, or a name of :data:`BUILT_IN`; None: ``any``.
        channel_names: of the model, in their order.

    Raises:
        InputError: a file that cannot be read, unknown words in it, a channel without rules, or
            built-in rules for a model of several channels.
    """
    if rules is not None and rules not in BUILT_IN:
        content = _read_rules(Path(rules))
        return _selection(content, channel_names, rules)

    if len(channel_names) > 1:
        names = ", ".join(channel_names)
        raise InputError(
            f"the model has {len(channel_names)} channels ({names}); give --rules FILE with rules "
            "for each of them"
        )

    name = channel_names[0]
    source = rules or "any"
    conditions = {"modality": _modality_of(name), **BUILT_IN[source]}
    content = {"channels": {name: conditions}}
    return _selection(content, channel_names, source)


def choose(acquisitions: Sequence[Acquisition], selection: Selection) -> Choice:
    """Choose a series of one study for each channel.

    All channels lie in the frame of reference of the first one, and no series serves twice.
    """
    chosen: list[Acquisition] = []
    reasons: dict[int, str] = {}
    missing = ""
    for channel in selection.channels:
        acceptable = _acceptable(acquisitions, channel, chosen, reasons)
        if not acceptable:
            missing = missing or f"no series meets the rules for channel {channel.name}"
            continue

        for acquisition in acceptable:
            reasons[id(acquisition)] = f"another series is preferred for channel {channel.name}"
        chosen.append(min(acceptable, key=channel.rank))

    for acquisition in chosen:
        if missing:
            reasons[id(acquisition)] = missing
        else:
            reasons.pop(id(acquisition), None)

    return Choice(() if missing else tuple(chosen), missing, reasons)


def _acceptable(
    acquisitions: Sequence[Acquisition],
    channel: Channel,
    chosen: Sequence[Acquisition],
    reasons: dict[int, str],
) -> list[Acquisition]:
    """Return the series that may serve a channel; ``reasons`` receives why others may not."""
    used = {id(acquisition) for acquisition in chosen}
    acceptable = []
    for acquisition in acquisitions:
        if id(acquisition) in used:
            continue

        reason = channel.required.unmet(acquisition) or _apart(acquisition, chosen)
        if reason:
            reasons[id(acquisition)] = reason
        else:
            acceptable.append(acquisition)
    return acceptable


def _apart(acquisition: Acquisition, chosen: Sequence[Acquisition]) -> str:
    """Return that a series lies elsewhere than those chosen before; empty if it does not."""
    if not chosen:
        return ""

    frame = acquisition.slices[0].frame_of_reference_uid
    if frame and frame == chosen[0].slices[0].frame_of_reference_uid:
        return ""
    return "lies in another frame of reference than the first channel"


def _modality_of(channel: str) -> str:
    """Return the modality that a channel's name tells."""
    if re.search(r"(^|[^a-z])CT([^a-z]|$)", channel, re.IGNORECASE):
        return "CT"
    if re.search(MR_WORDS, channel, re.IGNORECASE):
        return "MR"
    raise InputError(
        f"the model's channel {channel!r} names no modality; give --rules FILE with its modality "
        "(CT or MR)"
    )


def _selection(content: dict[str, Any], channel_names: Sequence[str], source: str) -> Selection:
    _require_known(content, ("channels", "minimum_slices", "derived"), source)
    channels = _channels(content.get("channels"), channel_names, source)

    minimum = content.get("minimum_slices", 3)
    derived = content.get("derived", False)
    is_count = type(minimum) is int and minimum >= 1
    if not is_count or not isinstance(derived, bool):
        raise InputError(f"{source}: minimum_slices is a number from 1, derived is true or false")

    modalities = []
    for channel in channels:
        modality = channel.required.modality or "CT"
        if modality not in modalities:
            modalities.append(modality)
    rules = Rules(
        modalities=tuple(modalities),
        minimum_slices=minimum,
        derived=derived,
    )
    return Selection(channels, rules)


def _channels(named: Any, channel_names: Sequence[str], source: str) -> tuple[Channel, ...]:
    """Return the channels in their order; rules have their names or their numbers."""
    if not isinstance(named, dict):
        raise InputError(
            f'{source}: has no "channels", an object with rules for {", ".join(channel_names)}'
        )

    index_of = {name: index for index, name in enumerate(channel_names)}
    for index in range(len(channel_names)):
        index_of[str(index)] = index
    _require_known(named, tuple(index_of), source)

    rule_of = {index_of[name]: rule for name, rule in named.items()}
    channels = []
    for index, name in enumerate(channel_names):
        if index not in rule_of:
            raise InputError(f"{source}: has no rules for channel {name}; add them")
        channel = _channel(name, rule_of[index], f"{source}: channel {name}")
        channels.append(channel)
    return tuple(channels)


def _channel(name: str, rule: Any, source: str) -> Channel:
    if not isinstance(rule, dict):
        raise InputError(f"{source}: is not an object of conditions")

    required = {"modality": "CT", **rule}
    wishes = required.pop("prefer", [])
    if not isinstance(wishes, list):
        raise InputError(f"{source}: prefer is not a list of conditions")

    preferred = [_conditions(wish, f"{source}: prefer") for wish in wishes]
    conditions = _conditions(required, source)
    return Channel(name, conditions, tuple(preferred))


def _conditions(content: Any, source: str) -> Conditions:
    if not isinstance(content, dict):
        raise InputError(f"{source}: is not an object of conditions")
    excluding = [f"not_{name}" for name in TEXT_FIELDS]
    known = ("modality", "axial", *TEXT_FIELDS, *excluding, *RANGES)
    _require_known(content, known, source)

    modality = content.get("modality", "")
    axial = content.get("axial", False)
    if modality not in ("", *MODALITIES):
        raise InputError(f"{source}: modality {modality!r} is not one of {', '.join(MODALITIES)}")
    if not isinstance(axial, bool):
        raise InputError(f"{source}: axial is true or false")

    wanted, unwanted, ranges = [], [], []
    for key, value in content.items():
        where = f"{source}: {key}"
        if key in TEXT_FIELDS:
            wanted.append((key, _pattern(value, where)))
        elif key in excluding:
            name = key.removeprefix("not_")
            unwanted.append((name, _pattern(value, where)))
    for key in RANGES:
        if key in content:
            where = f"{source}: {key}"
            ranges.append((key, _range(content[key], where)))
    return Conditions(
        modality,
        wanted=tuple(wanted),
        unwanted=tuple(unwanted),
        ranges=tuple(ranges),
        axial=axial,
    )


def _pattern(value: Any, source: str) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise InputError(f"{source}: is not a text")
    try:
        return re.compile(value, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{source}: {value!r} is not a regular expression ({error})") from error


def _range(value: Any, source: str) -> tuple[float, float]:
    refusal = f"{source}: is not [least, largest]"
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(refusal)
    for part in value:
        if type(part) not in (int, float):
            raise InputError(refusal)

    least, largest = map(float, value)
    if not least <= largest:
        raise InputError(f"{source}: {least:g} is larger than {largest:g}")
    return least, largest


def _require_known(content: Mapping[str, Any], known: Sequence[str], source: str) -> None:
    for name in content:
        if name not in known:
            raise InputError(f"{source}: {name!r} is not known; known are {', '.join(known)}")


def _read_rules(path: Path) -> dict[str, Any]:
    advice = f"give a JSON file, or one of {', '.join(BUILT_IN)}"
    if not path.is_file():
        raise InputError(f"{path}: no such rules; {advice}")
    return read_object(path, advice)


def _text(acquisition: Acquisition, name: str) -> str:
    first = acquisition.slices[0]
    return str(getattr(first, name))


def _number(acquisition: Acquisition, name: str) -> float | None:
    if name == "slices":
        return float(len(acquisition.slices))
    if name == "step_mm":
        return acquisition.stack.step_mm
    return acquisition.slices[0].thickness_mm
