"""Adds the native library to what setuptools builds; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from atom_edge.errors import BuildError  # noqa: E402  (found by the line above)
from atom_edge.runtimes.native import CMAKE_FOLDER, library_name  # noqa: E402
from atom_edge.runtimes.native import build as native  # noqa: E402

PACKAGE = Path("atom_edge", "runtimes", "native")
REQUIRED = os.environ.get("ATOM_EDGE_NATIVE") == "required"


class BuildNative(Command):
    """Compile the native library, where there is a compiler.

    Attributes:
        library: what was built; None where nothing was.
    """

    description = "compile the native library"
    user_options = []  # noqa: RUF012  (as setuptools declares it)
    editable_mode = False

    def initialize_options(self) -> None:
        """Leave every folder to `build`."""
        self.build_lib: str | None = None
        self.build_temp: str | None = None
        self.library: Path | None = None

    def finalize_options(self) -> None:
        """Take the folders of `build`."""
        self.set_undefined_options(
            "build", ("build_lib", "build_lib"), ("build_temp", "build_temp")
        )

    def run(self) -> None:
        """Build it beside the sources for an editable install, else among the files to install."""
        assert self.build_lib is not None
        assert self.build_temp is not None
        folder, objects = Path(self.build_lib) / PACKAGE, Path(self.build_temp) / "native"
        if self.editable_mode:
            folder, objects = native.HERE, native.OBJECTS
        (folder / library_name()).unlink(missing_ok=True)
        try:
            self.library = native.build(folder, objects)
        except BuildError as error:
            if REQUIRED:
                raise
            warnings.warn(
                f"atom-edge is installed without its native library, and will be slower. {error} "
                "`atom-edge doctor` says how to mend it.",
                stacklevel=1,
            )

    def get_source_files(self) -> list[str]:
        """Files of a source distribution."""
        folders = (native.SOURCES, native.HEADERS, CMAKE_FOLDER)
        return [
            str(file.relative_to(ROOT))
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file()
        ]

    def get_outputs(self) -> list[str]:
        """What was put among the files to install."""
        return [] if self.library is None or self.editable_mode else [str(self.library)]

    def get_output_mapping(self) -> dict[str, str]:
        """Outputs that an editable install finds elsewhere: none."""
        return {}


class Wheel(bdist_wheel):
    """A wheel of any Python 3, and of one platform where it holds the library."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3-none-any`, or `py3-none-<platform>`; asked for after the build."""
        command = self.get_finalized_command("build_native")
        assert isinstance(command, BuildNative)
        self.root_is_pure = command.library is None
        return ("py3", "none", super().get_tag()[2])


build.sub_commands = [*build.sub_commands, ("build_native", None)]
setup(cmdclass={"build_native": BuildNative, "bdist_wheel": Wheel})
