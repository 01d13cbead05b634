"""Where a snapshot is: a folder, or a repository of the Hugging Face hub, downloaded.

Needs neither torch nor transformers: what is not there is told before they are imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from atom_edge.errors import SnapshotError

_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "README.md")


@dataclass(frozen=True)
class Located:
    """A snapshot's folder, the name of its repository or folder, and its commit if it has one."""

    path: Path
    name: str
    revision: str | None


def locate(
    path_or_hub_id: str | Path, *, revision: str | None, local_files_only: bool, with_code: bool
) -> Located:
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
        return Located(path, path.resolve().name, None)
    if path.is_file():
        raise SnapshotError(f"'{text}' is a file. Give the folder that holds it and config.json.")
    if isinstance(path_or_hub_id, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text):
        raise SnapshotError(f"There is no folder '{text}'.")
    folder = _download(text, revision, local_files_only, with_code)
    return Located(folder, text, folder.name)


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
