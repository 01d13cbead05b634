"""The tensors in the safetensors files of a snapshot.

Nothing here runs code from the snapshot: weights are read from safetensors only, because a pickle
can run any code while it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from atom_edge import border
from atom_edge.errors import SnapshotError, WeightsError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if the file does not exist.

    Raises:
        SnapshotError: the file is not a JSON object.
    """
    if not path.exists():
        return {}
    data = border.read_file(path, border.JSON_LIMIT, SnapshotError)
    try:
        return border.parse_json(data, dict[str, Any], str(path), SnapshotError)
    except SnapshotError as error:
        # Python writes Infinity, which JSON has not, and transformers leaves it so.
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise error from error.__cause__
        if not isinstance(value, dict):
            raise error from error.__cause__
        return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a snapshot: `model.safetensors`, its index's, or the only one.

    Raises:
        SnapshotError: there are none, only pickles, several without an index, or an index that
            points out of the folder or to what is not there.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / _INDEX).is_file():
        return [folder / name for name in sorted(set(_weight_map(folder).values()))]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise SnapshotError(
            f"{folder} holds several safetensors files and no {_INDEX} that says which belong "
            f"together: {', '.join(file.name for file in found)}."
        )
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise SnapshotError(_pickle_refusal(f"{folder} holds its weights as {', '.join(pickles)}"))
    raise SnapshotError(f"{folder} holds no weights: no {_SINGLE} and no {_INDEX}.")


def _pickle_refusal(found: str) -> str:
    return (
        f"{found}: a pickle, which can run any code while it is loaded, so it is not opened. "
        "If you trust it, convert it once with safetensors: "
        f"safetensors.torch.save_file(torch.load(FILE, weights_only=True), '{_SINGLE}')."
    )


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SnapshotError(f"{folder / _INDEX} has no weight_map.")
    for name in set(map(str, weight_map.values())):
        if Path(name).suffix in _PICKLES:
            raise SnapshotError(_pickle_refusal(f"{folder / _INDEX} points to {name}"))
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise SnapshotError(
                f"{folder / _INDEX} points to '{name}', which is not the plain name of a "
                "safetensors file in the same folder. It is not followed."
            )
        if not (folder / name).is_file():
            raise SnapshotError(f"{folder / _INDEX} points to {name}, which is not there.")
    return weight_map


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a snapshot under its own name and in its own dtype.

    Raises:
        SnapshotError: as `weight_files`, or a file is damaged.
        WeightsError: shards and index disagree on which tensor is where.
    """
    tensors: dict[str, Tensor] = {}
    home: dict[str, str] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    if name in home:
                        raise WeightsError(
                            f"The tensor {name} is in both {home[name]} and {file.name}."
                        )
                    tensors[name], home[name] = opened.get_tensor(name), file.name
        except (SafetensorError, OSError) as error:
            raise SnapshotError(f"{file} is damaged or no safetensors file: {error}") from error
    if not (folder / _SINGLE).is_file() and (folder / _INDEX).is_file():
        _check_index(_weight_map(folder), home)
    return tensors


def _check_index(weight_map: dict[str, str], home: dict[str, str]) -> None:
    wrong = [
        f"{name}: {weight_map.get(name, 'nowhere')} by the index, {home.get(name, 'nowhere')} found"
        for name in sorted(weight_map.keys() | home.keys())
        if weight_map.get(name) != home.get(name)
    ]
    if wrong:
        raise WeightsError("The index and its shards disagree:\n  " + "\n  ".join(wrong))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
