"""Change the plans' entry and preprocess the streams that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.configure.changes import Changes
from nnunet_ext.configure.plans_file import chosen_configurations, new_plans_file
from nnunet_ext.configure.sizes import Sizes, keep_sizes
from nnunet_ext.configure.stream_checks import (
    PLAN_AGAIN,
    Labelled,
    Say,
    check_overlaps,
    check_streams,
)
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.files import read_plans
from nnunet_ext.stock.folders import environment_folder
from nnunet_ext.training.settings.plans_entry import PlansEntry

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


@dataclass(frozen=True)
class PlansToChange:
    """Plans of a labelled data set, and where they are written."""

    plans: dict[str, Any]
    source: Path
    target: Path  # another file where the plans get a new name

    @classmethod
    def read(cls, source: Path, new_name: str | None) -> PlansToChange:
        """Read the plans.

        Args:
            source: their file, in the data set's preprocessed folder.
            new_name: of the plans to write; None: the same.

        Raises:
            InputError: unreadable plans, or an impossible name.
        """
        plans = read_plans(source, PLAN_AGAIN)
        target = source
        if new_name:
            target = new_plans_file(plans, source.parent, new_name)
        return cls(plans, source, target)

    def entry(self) -> PlansEntry:
        """Return what was configured before."""
        file = self.target if self.target.is_file() else self.source
        plans = read_object(file, PLAN_AGAIN)
        return PlansEntry.from_plans(plans)

    def keep_sizes(self) -> None:
        """Keep the patch and the batch that were configured before."""
        if self.target != self.source and self.target.is_file():
            existing = read_object(self.target, PLAN_AGAIN)
            keep_sizes(self.plans, existing)

    def write(self, entry: PlansEntry) -> None:
        """Write the plans with this entry."""
        content = dict(entry.into_plans(self.plans))
        content["plans_name"] = self.target.stem
        write_json(content, self.target)


@dataclass(frozen=True)
class Preprocessing:
    """How streams are preprocessed."""

    configurations: Sequence[str] | None  # of nnU-Net; None: the usual ones
    processes: int
    forbid_overlap: bool


def change_plans(
    plans: PlansToChange,
    entry: PlansEntry,
    changes: Changes,
    sizes: Sizes,
    how: Preprocessing,
    say: Say,
) -> None:
    """Apply the changes, preprocess streams where something concerns them, and write the plans.

    Args:
        plans: to change.
        entry: to start from, changed in place.
        changes: to make.
        sizes: of patch and batch, for the configurations of ``how``.
        how: streams are preprocessed.
        say: called with each line for the user.

    Raises:
        InputError: a change is impossible, or a stream does not fit or cannot be preprocessed.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    changes.apply_to(entry)
    manager = PlansManager(plans.plans)
    given = None if how.configurations is None else list(how.configurations)
    names = chosen_configurations(given, manager, plans.source)
    if given or changes.normalizations or changes.streams:
        folder = plans.source.parent
        labelled = Labelled.read(folder, environment_folder("nnUNet_raw"))
        check_streams(entry, labelled, say)
        check_overlaps(entry, labelled, how.forbid_overlap, say)
        _preprocess(entry, folder, manager, names, how.processes, say)
    for warning in sizes.write_into(plans.plans, names):
        say(warning)
    plans.write(entry)


def _preprocess(
    entry: PlansEntry,
    folder: Path,
    plans: PlansManager,
    names: Sequence[str],
    processes: int,
    say: Say,
) -> None:
    """Preprocess every data set of every stream for these configurations."""
    from nnunet_ext.training.streams.location import Stream
    from nnunet_ext.training.streams.preprocessing import preprocess_stream

    raw = environment_folder("nnUNet_raw")
    for role, datasets in entry.streams.items():
        normalization = entry.normalizations.get(role)
        for recorded in datasets:
            for name in names:
                configuration = plans.get_configuration(name)
                stream = Stream.locate(role, recorded, folder, configuration, normalization)
                say(preprocess_stream(stream, raw / stream.dataset, plans, name, processes))
