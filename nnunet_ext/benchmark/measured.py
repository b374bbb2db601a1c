"""``python -m nnunet_ext.benchmark.measured FILE COMMAND ...``: note a program's peak memory.

The command, a console script, runs in this process as it would on its own. ``FILE`` receives the
peak of its resident memory and, if it used a GPU, of the memory that torch reserved there, in
bytes; of several runs the highest.
"""

import json
import runpy
import sys
from pathlib import Path

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

from nnunet_ext.files.atomic_json import write_json


def main(file: Path, script: str, arguments: list[str]) -> None:
    """Become the script, whose exit code is ours."""
    sys.argv[:] = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        record(file)


def record(file: Path) -> None:
    """Write the peaks of this process, or those of an earlier one that are higher."""
    before = json.loads(file.read_text()) if file.is_file() else {}
    highest = {
        "memory_bytes": max(_resident(), before.get("memory_bytes", 0)),
        "gpu_bytes": max(_gpu(), before.get("gpu_bytes", 0)),
    }
    write_json(highest, file)


def _resident() -> int:
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _gpu() -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.max_memory_reserved())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
