"""Build hook: puts ``nnunet_ext.pth`` beside the packages, so that stock nnU-Net commands find the
trainers.

Everything else is declared in ``pyproject.toml``. Importing this file does nothing: nnU-Net imports
every module of a folder that ``nnUNet_extTrainer`` names.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STARTUP_FILE = Path("nnunet_ext", "nnunet_ext.pth")


class BuildWithStartupFile(build_py):
    """``build_py`` that also copies the start-up file to the top of the wheel, where pip lists and
    removes it.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file(str(STARTUP_FILE), str(Path(self.build_lib, STARTUP_FILE.name)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return (
            outputs
            if self.editable_mode
            else [*outputs, str(Path(self.build_lib, STARTUP_FILE.name))]
        )


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithStartupFile})
