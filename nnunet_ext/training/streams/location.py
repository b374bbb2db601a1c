"""Where a stream's preprocessed cases are, and whether they fit the plans.

A stream is a further data set, preprocessed with the labelled data set's plans into
``nnUNet_preprocessed/<labelled>/streams/<role>/<data set>/<data identifier>``, beside the labelled
data's own folders.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.folders import plain_name
from nnunet_ext.training.settings.plans_entry import ROLES, PlansEntry
from nnunet_ext.training.streams.normalization import Window

LESION_LABELS = {"background": 0, "lesion": 1}
UNLABELLED_ROLES = ("unlabeled", "target_domain")
MANIFEST = "stream.json"  # written last: its presence means that every case is there
# of a configuration, beside those of resampling
DECISIVE_KEYS = ("spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name")
CASE_FILES = (".b2nd", "_seg.b2nd", ".pkl")
DATASET_NAME = re.compile(r"Dataset\d{3,}_[\w.-]+")


def preprocessing_fingerprint(
    plans: PlansManager, configuration: ConfigurationManager, window: Window | None = None
) -> dict:
    """Return everything that decides how a case is preprocessed, as JSON to compare."""
    fingerprint: dict[str, Any] = {}
    if window is not None:
        fingerprint |= {"normalization": str(window), "cropped": "above the lower bound"}
    fingerprint |= {
        "transpose_forward": plans.transpose_forward,
        "foreground_intensity_properties": plans.foreground_intensity_properties_per_channel,
    }
    for key, value in sorted(configuration.configuration.items()):
        if key in DECISIVE_KEYS or key.startswith("resampling_fn"):
            fingerprint[key] = value
    return fingerprint


@dataclass(frozen=True)
class Stream:
    """One data set in one role, preprocessed for one configuration of the plans."""

    role: str
    dataset: str  # e.g. Dataset006_Lung
    lesions: tuple[str, ...]  # labels that count as lesion; empty: all
    folder: Path  # holds the .b2nd and .pkl files
    window: Window | None = None  # None: normalised as the plans say

    @classmethod
    def locate(
        cls,
        role: str,
        recorded: str,
        labelled_folder: str | Path,
        configuration: ConfigurationManager,
        normalization: str | None = None,
    ) -> Stream:
        """Return the place of a stream below the labelled data set's preprocessed folder.

        Args:
            role: key of :data:`~nnunet_ext.training.settings.plans_entry.ROLES`.
            recorded: data set as the plans record it, ``Dataset003_Liver`` or
                ``Dataset003_Liver=cancer``.
            labelled_folder: the labelled data set's preprocessed folder.
            configuration: gives the data identifier.
            normalization: of this role as the plans record it, ``window(0,80)``; None follows the
                plans.

        Raises:
            InputError: an unknown role, a name that no nnU-Net data set can have, or an impossible
                normalisation.
        """
        dataset, _, lesions = recorded.partition("=")
        if role not in ROLES or not DATASET_NAME.fullmatch(dataset):
            raise InputError(
                f"the plans name an impossible stream: {role} {recorded}; configure it again"
            )

        name = plain_name(configuration.data_identifier, "the plans: data_identifier")
        window = None
        if normalization is not None:
            window = Window.parse(normalization)
            name += f"_{window.folder_suffix}"

        labels = lesions.split(",")
        chosen = tuple(filter(None, labels))
        if chosen:
            name += f"_{_lesions_suffix(chosen)}"
        folder = role_root(labelled_folder, role) / dataset / name
        return cls(role, dataset, chosen, folder, window)

    def manifest(self) -> dict | None:
        """Return the record of a finished preprocessing; None if it is not finished.

        It holds the fingerprint of the plans, the source files and the case names.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        return read_object(
            path, f"delete {self.folder} and configure again", {"plans": dict, "cases": list}
        )

    def is_done(self, case: str) -> bool:
        """Return whether every file of the case exists; a file appears only when it is complete."""
        files = [self.folder / f"{case}{ending}" for ending in CASE_FILES]
        return all(map(Path.is_file, files))

    def cases(self, plans: PlansManager, configuration: ConfigurationManager) -> list[str]:
        """Return the names of the cases.

        Raises:
            InputError: not preprocessed, preprocessed for other plans, or cases are missing.
        """
        advice = (
            f"run nnUNetv2_ext_configure -d {plans.dataset_name} -p {plans.plans_name} "
            f"-c {_name_of(configuration, plans)} --{self.role} with all its data sets again"
        )
        manifest = self.manifest()
        if manifest is None:
            raise InputError(
                f"{self.folder}: the {self.role} stream {self.dataset} is not preprocessed; "
                f"{advice}"
            )
        if manifest["plans"] != preprocessing_fingerprint(plans, configuration, self.window):
            raise InputError(
                f"{self.folder}: preprocessed with other plans than those in use; {advice}"
            )
        missing = [case for case in manifest["cases"] if not self.is_done(case)]
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} preprocessed cases are missing, e.g. {missing[0]}; "
                f"{advice}"
            )
        return manifest["cases"]


def _name_of(configuration: ConfigurationManager, plans: PlansManager) -> str:
    """Return the first of the plans' configurations that reads the same preprocessed data."""
    identifier = configuration.data_identifier
    for name in plans.available_configurations:
        candidate = plans.get_configuration(name)
        if candidate.data_identifier == identifier:
            return name
    raise ValueError(f"no configuration reads {identifier}")


def _lesions_suffix(lesions: tuple[str, ...]) -> str:
    """Return a part of the folder name that distinguishes selections of labels.

    It is a hash, because labels may contain any character.
    """
    names = "\0".join(sorted(lesions))
    digest = hashlib.sha256(names.encode())
    short = digest.hexdigest()[:12]
    return f"lesions-{short}"


def role_root(labelled_folder: str | Path, role: str) -> Path:
    """Return the folder above all streams of a role; keys of its cases are paths below it."""
    return Path(labelled_folder) / "streams" / role


def stream_keys(
    role: str,
    datasets: list[str],
    labelled_folder: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
) -> list[str]:
    """Return the keys of all cases of a role: paths below :func:`role_root`, as nnU-Net reads them.

    Raises:
        InputError: see :meth:`Stream.locate` and :meth:`Stream.cases`.
    """
    root = role_root(labelled_folder, role)
    entry = PlansEntry.from_plans(plans.plans)
    normalization = entry.normalizations.get(role)

    keys = []
    for dataset in datasets:
        stream = Stream.locate(
            role,
            dataset,
            labelled_folder,
            configuration,
            normalization,
        )
        folder = stream.folder.relative_to(root)
        for case in stream.cases(plans, configuration):
            path = folder / case
            keys.append(path.as_posix())
    return keys
