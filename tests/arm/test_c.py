"""The program in C++, cross-compiled and run on emulated ARM boards."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from c_interface import make_bundle

from atom_edge.reference import checkpoint_path
from atom_edge.runtimes.session import AtomSession

if TYPE_CHECKING:
    from tests.arm.conftest import Board

SOURCE = Path(__file__).parents[2]
# As in test_boards.py: the model is sure of these for so many tokens.
PROMPTS, TOKENS = ("Electric current is", "Hot glue is"), 64


def test_the_example_streams_the_text_of_this_machine(board: Board) -> None:
    native = board.package / "atom_edge" / "runtimes" / "native"
    root = board.package.parent
    with tempfile.TemporaryDirectory(dir=root, prefix="example.") as name:
        folder = Path(name)
        bundle = make_bundle(checkpoint_path(), folder / "bundle")
        compiler = ["aarch64-linux-gnu-g++", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
        source = SOURCE / "examples" / "cpp" / "stream.cpp"
        subprocess.run(
            [
                *(*compiler, f"-I{native / 'include'}", source, "-o", folder / "stream"),
                *(f"-L{native}", "-latom_edge", f"-Wl,-rpath,/{native.relative_to(root)}"),
            ],
            check=True,
            timeout=300,
        )
        (runtime,) = (root / "site" / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
        inside = ["chroot", str(root), "/usr/bin/qemu-aarch64-static", "-cpu", board.cpu]
        inside += [f"/{folder.name}/stream", f"/{folder.name}/bundle"]
        inside += [f"/{runtime.relative_to(root)}"]
        python = AtomSession.from_pretrained(bundle)
        for prompt in PROMPTS:
            done = subprocess.run(
                [*inside, prompt],
                capture_output=True,
                text=True,
                timeout=300,
                env={**board.environment, "ORT_DISABLE_TELEMETRY": "1"},
            )
            assert done.returncode == 0, done.stderr
            expected = python.generate(prompt, temperature=0, max_new_tokens=TOKENS).text
            assert done.stdout.startswith(expected)
