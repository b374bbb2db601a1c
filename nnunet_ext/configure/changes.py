"""What a user changes in the plans' entry, parsed and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.own_trainers import known_trainers
from nnunet_ext.stock.folders import dataset_name
from nnunet_ext.training.settings.hyperparameters import declared, parse, unknown
from nnunet_ext.training.settings.plans_entry import ROLES, PlansEntry


@dataclass(frozen=True)
class Changes:
    """What the command line names; everything else in the entry stays."""

    streams: dict[str, list[str]]  # role -> data sets, as ID or ID=LABELS
    settings: Sequence[str] = ()  # NAME=VALUE
    normalizations: Sequence[str] = ()  # ROLE=KIND
    preset: str | None = None

    def apply_to(self, entry: PlansEntry) -> None:
        """Take the changes over into the entry.

        Raises:
            InputError: one is impossible.
        """
        for role, datasets in self.streams.items():
            entry.streams[role] = [_recorded(dataset) for dataset in datasets]
        for assignment in self.normalizations:
            _normalize(assignment, entry)
        entry.preset = self.preset or entry.preset

        for assignment in self.settings:
            name, separator, value = assignment.partition("=")
            if not separator:
                raise InputError(f"--set {assignment}: write NAME=VALUE")
            entry.settings[name] = _checked(name, value)


def _recorded(dataset: str) -> str:
    """Return ``3=cancer`` as the plans record it, ``Dataset003_Liver=cancer``."""
    given, equals, labels = dataset.partition("=")
    name = dataset_name(given)
    return f"{name}{equals}{labels}"


def _normalize(assignment: str, entry: PlansEntry) -> None:
    """Take over one ``ROLE=KIND``.

    Raises:
        InputError: no such role, a role without data sets, or an impossible normalisation.
    """
    from nnunet_ext.training.streams.normalization import Window

    role, separator, kind = assignment.partition("=")
    if not separator or role not in ROLES:
        raise InputError(
            f"--normalize {assignment}: write ROLE=window(LOW,HIGH), ROLE one of {', '.join(ROLES)}"
        )
    if role not in entry.streams:
        raise InputError(
            f"--normalize {assignment}: there is no {role} stream; name its data sets with --{role}"
        )

    if kind == "plans":
        entry.normalizations.pop(role, None)
    else:
        entry.normalizations[role] = str(Window.parse(kind))


def _checked(name: str, value: str) -> Any:
    """Return the value as its type; a name means the same in every trainer that declares it.

    Raises:
        InputError: an unknown trainer or hyperparameter, or an impossible value.
    """
    scope, _, plain = name.rpartition(".")
    candidates = known_trainers()
    if scope:
        if scope not in candidates:
            raise InputError(f"unknown trainer {scope}; valid are: {', '.join(candidates)}")
        candidates = {scope: candidates[scope]}

    hints: dict[str, Any] = {}
    for trainer in candidates.values():
        hints |= declared(trainer)
    if plain not in hints:
        raise unknown(name, sorted(hints))
    parsed = parse(name, value, hints[plain])

    for trainer in candidates.values():
        if plain in trainer.file_settings:
            return _file_or_word(name, parsed, trainer.file_settings[plain])
    return parsed


def _file_or_word(name: str, value: str, words: tuple[str, ...]) -> str:
    """Return a hyperparameter that names a file as an absolute path, unless it is a known word.

    Raises:
        InputError: there is no such file.
    """
    if not words or value in words:
        return value

    path = Path(value).expanduser().resolve()  # training may start in another folder
    if not path.is_file():
        raise InputError(f"{path}: no such file; {name} is {', '.join(words)} or a file's path")
    return str(path)
