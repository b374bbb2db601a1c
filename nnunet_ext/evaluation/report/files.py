"""The files of an evaluation: tables and figures of each profile, replaced as a set."""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Comparison
from nnunet_ext.evaluation.cases.labels import LabelSet
from nnunet_ext.evaluation.metrics.metric import EmptyPolicy
from nnunet_ext.evaluation.profiles import PROFILES, Profile
from nnunet_ext.evaluation.report.comparison_figures import (
    bland_altman_figure,
    box_plots_figure,
    score_over_volume_figure,
)
from nnunet_ext.evaluation.report.gallery import worst_cases_figure
from nnunet_ext.evaluation.report.machine_readable import json_report
from nnunet_ext.evaluation.report.names import FIGURES, REPORT, RESULTS
from nnunet_ext.evaluation.report.ranks import ranks_table
from nnunet_ext.evaluation.report.reliability import reliability_figure, reliability_table
from nnunet_ext.evaluation.report.tables import cases_table, paired_tests_table, summary_table
from nnunet_ext.evaluation.report.texts import latex_table, markdown_report, wide_table
from nnunet_ext.files.csv_cells import plain_table
from nnunet_ext.files.locks import held
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX, whole_file

LOCK = ".evaluate.lock"


class Results:
    """The tables of one profile."""

    def __init__(
        self,
        profile: Profile,
        comparisons: Sequence[Comparison],
        labels: LabelSet,
        empty: EmptyPolicy,
        notes: Sequence[str],
    ) -> None:
        self.profile = profile
        self.labels = labels
        self.files = {comparison.case.name: comparison.files for comparison in comparisons}
        self.cases = cases_table(comparisons, labels, profile, empty)
        summary = summary_table(self.cases, profile)
        tests = paired_tests_table(self.cases, profile)
        ranks = ranks_table(self.cases, profile)

        self.report = markdown_report(summary, tests, ranks, profile, empty, notes)
        self.texts: dict[str, str | None] = dict.fromkeys(RESULTS)
        tables = {
            "cases.csv": self.cases,
            "summary.csv": summary,
            "table.csv": wide_table(summary),
        }
        if len(tests):
            tables["tests.csv"] = tests
        if len(ranks):
            tables["ranks.csv"] = ranks
        if profile.measures_probabilities:
            self.reliability = reliability_table(comparisons, profile)
            tables["reliability.csv"] = self.reliability
        for name, table in tables.items():
            plain = plain_table(table)
            self.texts[name] = plain.to_csv(index=False, na_rep="nan")
        self.texts["table.tex"] = latex_table(summary, profile)
        self.texts["summary.json"] = json_report(summary, tests, ranks, profile, empty, notes)
        self.texts[REPORT] = self.report

    def draw(self, folder: Path, images: Mapping[str, Path]) -> None:
        """Draw figures of all methods, and of the worst cases of each."""
        profile = self.profile
        first = profile.metrics[0]
        unit = "patients" if profile.per_patient else "cases"
        title = f"profile {profile.title}, {len(self.files)} {unit}"
        box_plots_figure(self.cases, profile.metrics, folder / "box_plots.png", title)
        bland_altman_figure(self.cases, folder / "bland_altman.png", title)
        score_over_volume_figure(self.cases, first, folder / f"{first}_over_volume.png", title)
        if profile.measures_probabilities:
            reliability_figure(self.reliability, folder / "reliability.png", title)

        label = self.labels.merged
        is_of_label = self.cases["label"] == label
        rows = self.cases[is_of_label]
        for number, method in enumerate(rows["method"].unique(), start=1):
            name = re.sub(r"[^\w.-]+", "_", method)
            worst_cases_figure(
                rows,
                method,
                first,
                self.files,
                self.labels.values[label],
                images,
                folder / f"worst_cases_{number}_{name}.png",
                f"{title}, worst {first} of {label}",
            )


def require_free(output: Path | None, overwrite: bool, figures: bool) -> None:
    """Check that results may be written.

    Args:
        output: folder of the results, None where nothing is written.
        overwrite: whether earlier results may be replaced.
        figures: whether figures are wanted.

    Raises:
        InputError: earlier results would be lost, or there is no folder for the figures.
    """
    if output is None:
        if figures:
            raise InputError("--figures: needs a folder; add -o OUT")
        return
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; -o needs a folder")

    existing = []
    for folder in _result_folders(output):
        for name in (*RESULTS, FIGURES):
            file = folder / name
            if file.exists():
                existing.append(str(file.relative_to(output)))
    if existing and not overwrite:
        raise InputError(
            f"{output}: already holds {', '.join(existing)}; choose another -o or add --overwrite"
        )


def _result_folders(output: Path) -> list[Path]:
    """Return where results can stand.

    One profile's are in the folder itself, those of several profiles in a folder of each.
    """
    of_profiles = [output / name for name in PROFILES]
    return [output, *of_profiles]


def write_in_turn(
    output: Path, overwrite: bool, results: Sequence[Results], images: Mapping[str, Path] | None
) -> None:
    """Write the results; of two runs with the same output the second waits, then decides again.

    Args:
        output: folder of the results.
        overwrite: whether earlier results may be replaced.
        results: of the profiles.
        images: drawn behind the worst cases; None: no figures at all.

    Raises:
        InputError: they cannot be written, or earlier results would be lost.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with held(output / LOCK, keep_file=False):
            require_free(output, overwrite, images is not None)
            _write_all(output, results, images)
    except OSError as error:
        raise InputError(f"{output}: cannot write results ({error.strerror or error})") from error


def _write_all(output: Path, results: Sequence[Results], images: Mapping[str, Path] | None) -> None:
    """Replace all earlier results, also those of other profiles, as a set."""
    folders = [output]
    if len(results) > 1:
        folders = [output / result.profile.name for result in results]

    drawn: list[Path] = []
    try:
        for result, folder in zip(results, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            figures = _temporary_folder(folder)
            drawn.append(figures)
            if images is not None:
                result.draw(figures, images)

        _remove_earlier(output, folders)
        for result, folder, figures in zip(results, folders, drawn, strict=True):
            if images is not None:
                permissions = folder.stat().st_mode & 0o777
                figures.chmod(permissions)
                figures.replace(folder / FIGURES)
            _write(folder, result.texts)
    finally:
        for figures in drawn:
            shutil.rmtree(figures, ignore_errors=True)


def _temporary_folder(folder: Path) -> Path:
    name = tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, suffix=f"-{FIGURES}", dir=folder)
    return Path(name)


def _remove_leftovers(folder: Path) -> None:
    """Delete what a killed run left behind; of a link only itself."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        is_link = leftover.is_symlink()
        if leftover.is_dir() and not is_link:
            shutil.rmtree(leftover, ignore_errors=True)
        elif leftover.name.endswith((*RESULTS, FIGURES)):
            leftover.unlink(missing_ok=True)


def _remove_earlier(output: Path, replaced: Sequence[Path]) -> None:
    """Delete earlier results, except for tables in folders where new ones replace them."""
    for folder in _result_folders(output):
        (folder / REPORT).unlink(missing_ok=True)  # from here on the earlier set is incomplete
    for folder in _result_folders(output):
        figures = folder / FIGURES
        if figures.exists():
            shutil.rmtree(figures)
        if folder in replaced or not folder.is_dir():
            continue

        _write(folder, dict.fromkeys(RESULTS))
        is_empty = not any(folder.iterdir())
        if is_empty and folder != output:
            folder.rmdir()


def _write(folder: Path, texts: Mapping[str, str | None]) -> None:
    """Write each file whole; None removes what an earlier run left."""
    for name, text in texts.items():
        file = folder / name
        if text is None:
            file.unlink(missing_ok=True)
            continue
        with whole_file(file) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
