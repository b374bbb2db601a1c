"""Names of the files of an evaluation."""

REPORT = "summary.md"  # written last: where it is missing, a run was stopped
RESULTS = (
    "cases.csv",
    "summary.csv",
    "tests.csv",
    "ranks.csv",
    "reliability.csv",
    "table.csv",
    "table.tex",
    "summary.json",
    REPORT,
)
FIGURES = "figures"
