"""The kernels for VNNI give the bits of those that run here, on machines without it too."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoders import Sequences, open_session, random_decoder
from test_loop import Sampling, run_loop

from atom_edge.exporters.native import Scheme, build
from atom_edge.runtimes import native
from atom_edge.runtimes.native import build as builder

HERE = Path(__file__).parent
SETS = {"avx512vnni": "kAvx512Vnni", "avxvnni": "kAvxVnni"}
SHARED = ("operator", "loader", "loop", "request", "workspace")
# SIMDe computes with these; it hands 64 bytes about, which older compilers did otherwise.
FLAGS = ("-mavx2", "-mfma", "-Wno-psabi")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A library of the operator alone for each of the sets."""
    compiler = builder.find_compiler()
    assert compiler.machine == "x86_64"
    objects = tmp_path_factory.mktemp("objects")
    common = [*compiler.command, *builder.COMPILE_FLAGS, "-O1"]
    common += [f"-I{builder.HEADERS}", f"-I{builder.SOURCES}", "-c"]
    commands = {
        objects / f"{name}.o": [*common, str(builder.SOURCES / f"{name}.cpp")] for name in SHARED
    }
    for name, constant in SETS.items():
        defines = [f"-DATOM_EDGE_EMULATE_{name.upper()}", f"-DATOM_EDGE_EMULATED={constant}"]
        commands[objects / f"{name}.o"] = [*common, *FLAGS, *defines, str(HERE / "emulated.cpp")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda item: _run([*item[1], "-o", str(item[0])]), commands.items()))

    folders = {}
    for name in SETS:
        folders[name] = tmp_path_factory.mktemp(name)
        parts = [str(objects / f"{part}.o") for part in (*SHARED, name)]
        library = str(folders[name] / native.library_name())
        _run([*compiler.command, *parts, *compiler.link_flags, "-o", library])
    return folders


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def bits() -> list[Any]:
    """Logits of many tokens at once, of one, and of three sequences, and tokens chosen."""
    decoder = random_decoder(
        np.random.default_rng(6), exclusive=True, norms=True, biases=True, head_size=24, heads=6
    )
    ids = np.random.default_rng(7).integers(0, 100, (3, 70))
    drawn = Sampling(temperature=0.9, top_k=40, top_p=0.9, penalty=1.1, seed=5)
    found: list[Any] = []
    for scheme in (Scheme(), Scheme(0), Scheme(activation_bits=16)):
        session = open_session(build(decoder, scheme))
        one, three = Sequences(session), Sequences(session, 3)
        found += [one.append(ids[:1]), one.append(ids[1:2, :1]), three.append(ids[:, :5])]
        found.append(run_loop(three, ids[:, 5:6], 20, [Sampling(), drawn, drawn]).tokens)
    return found


@pytest.mark.parametrize("name", SETS)
def test_the_kernels_for_vnni_give_the_bits_of_those_here(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = bits()
    monkeypatch.setattr(native, "_FOLDER", folders[name])
    for given, wanted in zip(bits(), expected, strict=True):
        assert np.array_equal(given, wanted)
