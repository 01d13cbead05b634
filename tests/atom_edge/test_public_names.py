"""The names that programs import from `atom_edge`: to take one away is to break them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import atom_edge
from atom_edge import errors

NAMES = [
    "AtomConfig",
    "AtomEdgeError",
    "AtomForCausalLM",
    "AtomSession",
    "Bundle",
    "BundleError",
    "CacheError",
    "Conversation",
    "ExportError",
    "Generation",
    "GenerationError",
    "GenerationOptions",
    "IntegrityError",
    "MissingExtraError",
    "Piece",
    "ProviderError",
    "SnapshotError",
    "TokenizerError",
    "UnsupportedModelError",
    "ValidationError",
    "WeightsError",
    "export",
    "open_bundle",
    "open_snapshot",
    "validate",
]


def test_the_list() -> None:
    assert sorted(atom_edge.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(atom_edge))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there(name: str) -> None:
    assert getattr(atom_edge, name).__module__.startswith("atom_edge.")


def test_errors_are_those_of_the_tree() -> None:
    for name in NAMES:
        if name.endswith("Error"):
            assert getattr(atom_edge, name) is getattr(errors, name)


def test_what_is_no_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        atom_edge.nothing  # noqa: B018  # asking for it is the test


@pytest.mark.parametrize("module", ["atom_edge", "atom_edge.cli"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print({{'torch', 'onnxruntime', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
