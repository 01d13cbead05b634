"""Where a snapshot is, and the tensors in its safetensors files.

Nothing here runs code from the snapshot: weights are read from safetensors only, because a pickle
can run any code while it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from atom_edge.errors import SnapshotError, WeightsError

_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "README.md")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


@dataclass(frozen=True)
class Source:
    """A snapshot's folder, the name of its repository or folder, and its commit if it has one."""

    path: Path
    name: str
    revision: str | None


def locate(
    path_or_hub_id: str | Path, *, revision: str | None, local_files_only: bool, with_code: bool
) -> Source:
    """Find a snapshot: a folder if there is one of that name, else a hub id.

    The hub's cache and settings (`HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_ENDPOINT`) are
    those of huggingface_hub. Python files are downloaded only when `with_code`.

    Raises:
        SnapshotError: no such folder or repository, no access, or offline and not in the cache.
    """
    text = str(path_or_hub_id)
    path = Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise SnapshotError(
                f"'{text}' is a folder, and a folder has no revision '{revision}'. "
                "Give a hub id, or leave the revision out."
            )
        return Source(path, path.resolve().name, None)
    if path.is_file():
        raise SnapshotError(f"'{text}' is a file. Give the folder that holds it and config.json.")
    if isinstance(path_or_hub_id, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text):
        raise SnapshotError(f"There is no folder '{text}'.")
    folder = _download(text, revision, local_files_only, with_code)
    return Source(folder, text, folder.name)


def _download(repo: str, revision: str | None, local_files_only: bool, with_code: bool) -> Path:
    where = f"'{repo}'" + (f" at revision '{revision}'" if revision else "")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=[*_WANTED, "*.py"] if with_code else list(_WANTED),
                ignore_patterns=["*/*"],
            )
        )
    except HFValidationError as error:
        raise SnapshotError(f"There is no folder {where}, and it is no hub id: {error}") from error
    except GatedRepoError as error:
        raise SnapshotError(
            f"The repository {where} is gated. Accept its terms on the hub, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise SnapshotError(f"The repository '{repo}' has no revision '{revision}'.") from error
    except RepositoryNotFoundError as error:
        raise SnapshotError(
            f"There is no folder {where}, and no such repository on the hub. Check the spelling; "
            "for a private repository log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        raise SnapshotError(
            f"There is no folder {where}, the hub's cache does not hold it, and the hub "
            "was not asked (local files only, or HF_HUB_OFFLINE) or could not be reached. "
            "Download it first, or check the network."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise SnapshotError(f"{where} could not be downloaded: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if the file does not exist.

    Raises:
        SnapshotError: the file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SnapshotError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise SnapshotError(f"{path} holds no JSON object.")
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
