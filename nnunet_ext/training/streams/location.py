"""Where a stream's preprocessed cases lie, and whether they fit the plans.

A stream is a further data set, preprocessed with the labelled data set's plans into
``nnUNet_preprocessed/<labelled>/streams/<role>/<data set>/<data identifier>``, beside the labelled
data's own folders.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.folders import plain_name
from nnunet_ext.training.settings.plans_entry import ROLES, PlansEntry
from nnunet_ext.training.streams.normalization import Window

LESION_LABELS = {"background": 0, "lesion": 1}
UNLABELLED_ROLES = ("unlabeled", "target_domain")
MANIFEST = "stream.json"  # written last: its presence means that every case is there
CASE_FILES = (".b2nd", "_seg.b2nd", ".pkl")


def preprocessing_fingerprint(
    plans: PlansManager, configuration: ConfigurationManager, window: Window | None = None
) -> dict:
    """Everything that decides how a case is preprocessed; plain JSON, compared for equality."""
    settings = configuration.configuration
    own_normalization = (
        {} if window is None else {"normalization": str(window), "cropped": "above the lower bound"}
    )
    return {
        **own_normalization,
        "transpose_forward": plans.transpose_forward,
        "foreground_intensity_properties": plans.foreground_intensity_properties_per_channel,
        **{
            key: settings[key]
            for key in sorted(settings)
            if key in ("spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name")
            or key.startswith("resampling_fn")
        },
    }


@dataclass(frozen=True)
class Stream:
    """One data set in one role, preprocessed for one configuration of the labelled data set's
    plans.
    """

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
        """The place of a stream below the labelled data set's preprocessed folder.

        Args:
            role: key of :data:`~nnunet_ext.training.settings.plans_entry.ROLES`.
            recorded: data set as the plans record it, ``Dataset003_Liver`` or
                ``Dataset003_Liver=cancer``.
            labelled_folder: the labelled data set's preprocessed folder.
            configuration: gives the data identifier.
            normalization: the role's own one as the plans record it, ``window(0,80)``; None is that
                of the plans.

        Raises:
            InputError: no role or no data set name of nnU-Net's, or an impossible normalisation.
        """
        dataset, _, lesions = recorded.partition("=")
        if role not in ROLES or not re.fullmatch(r"Dataset\d{3,}_[\w.-]+", dataset):
            raise InputError(
                f"the plans name an impossible stream: {role} {recorded}; configure it again"
            )
        window = None if normalization is None else Window.parse(normalization)
        chosen = tuple(filter(None, lesions.split(",")))
        name = plain_name(configuration.data_identifier, "the plans: data_identifier")
        name += f"_{window.folder_suffix}" if window else ""
        name += f"_{_lesions_suffix(chosen)}" if chosen else ""
        folder = Path(labelled_folder) / "streams" / role / dataset / name
        return cls(role, dataset, chosen, folder, window)

    def manifest(self) -> dict | None:
        """The record of a finished preprocessing: plans fingerprint, source files and case
        names.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        return read_object(
            path, f"delete {self.folder} and configure again", {"plans": dict, "cases": list}
        )

    def is_done(self, case: str) -> bool:
        """True where every file of the case is there; files appear only when they are complete."""
        return all((self.folder / f"{case}{ending}").is_file() for ending in CASE_FILES)

    def cases(self, plans: PlansManager, configuration: ConfigurationManager) -> list[str]:
        """Case names.

        Raises:
            InputError: not preprocessed, preprocessed for other plans, or cases are missing.
        """
        mend = (
            f"run nnUNetv2_ext_configure -d {plans.dataset_name} -p {plans.plans_name} "
            f"-c {_name_of(configuration, plans)} --{self.role} with all its data sets again"
        )
        manifest = self.manifest()
        if manifest is None:
            raise InputError(
                f"{self.folder}: the {self.role} stream {self.dataset} is not preprocessed; {mend}"
            )
        if manifest["plans"] != preprocessing_fingerprint(plans, configuration, self.window):
            raise InputError(
                f"{self.folder}: preprocessed with other plans than those in use; {mend}"
            )
        missing = [case for case in manifest["cases"] if not self.is_done(case)]
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} preprocessed cases are gone, e.g. {missing[0]}; "
                f"{mend}"
            )
        return manifest["cases"]


def _name_of(configuration: ConfigurationManager, plans: PlansManager) -> str:
    """Return the first of the plans' configurations that reads the same preprocessed data."""
    identifiers = {
        name: plans.get_configuration(name).data_identifier
        for name in plans.available_configurations
    }
    return next(
        name
        for name, identifier in identifiers.items()
        if identifier == configuration.data_identifier
    )


def _lesions_suffix(lesions: tuple[str, ...]) -> str:
    """Return a part of the folder name that tells selections apart: a hash, because labels may hold
    any sign.
    """
    names = "\0".join(sorted(lesions))
    return f"lesions-{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def role_root(labelled_folder: str | Path, role: str) -> Path:
    """The folder above all streams of a role; keys of a stream's cases are paths below it."""
    return Path(labelled_folder) / "streams" / role


def stream_keys(
    role: str,
    datasets: list[str],
    labelled_folder: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
) -> list[str]:
    """Keys of all cases of a role: paths below :func:`role_root` that nnU-Net's data set class
    reads.

    Raises:
        InputError: see :meth:`Stream.locate` and :meth:`Stream.cases`.
    """
    root = role_root(labelled_folder, role)
    normalization = PlansEntry.from_plans(plans.plans).normalizations.get(role)
    streams = [
        Stream.locate(role, dataset, labelled_folder, configuration, normalization)
        for dataset in datasets
    ]
    return [
        (stream.folder / case).relative_to(root).as_posix()
        for stream in streams
        for case in stream.cases(plans, configuration)
    ]
