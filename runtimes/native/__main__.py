"""Print where the native library, its header and its CMake package are."""

from __future__ import annotations

import argparse
import sys

from atom_edge.runtimes import native


def main() -> None:
    """Answer one question."""
    parser = argparse.ArgumentParser(
        prog="python -m atom_edge.runtimes.native", description=__doc__
    )
    answers = {
        "cmake": (native.CMAKE_FOLDER, "folder of the CMake package, for -Datom_edge_DIR"),
        "include": (native.INCLUDE_FOLDER, "folder of atom_edge.h"),
        "library": (native.library(), "the shared library"),
    }
    question = parser.add_mutually_exclusive_group(required=True)
    for name, (_, explanation) in answers.items():
        question.add_argument(
            f"--{name}", dest="asked", action="store_const", const=name, help=explanation
        )
    path, _ = answers[parser.parse_args().asked]
    if path is None:
        sys.exit(f"error: The native library was not built. {native.HOW_TO_BUILD}")
    print(path)


if __name__ == "__main__":
    main()
