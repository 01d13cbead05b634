"""Where a snapshot or a bundle is: a folder, or a repository of the Hugging Face hub, downloaded.

Needs neither torch nor transformers: what is not there is told before they are imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from atom_edge.bundle import Bundle
from atom_edge.errors import AtomEdgeError, BundleError, SnapshotError
from atom_edge.manifest import MANIFEST
from atom_edge.reference import bundle_path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_OF_A_BUNDLE = ["*.json", "*.txt", "*.jinja", "README.md", "onnx/*.onnx", "onnx/*.onnx_data"]
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "README.md")


@dataclass(frozen=True)
class Located:
    """A snapshot's folder or GGUF file, the name of its repository, folder or file, its commit."""

    path: Path
    name: str
    revision: str | None


def locate(
    path_or_hub_id: str | Path, *, revision: str | None, local_files_only: bool, with_code: bool
) -> Located:
    """Find a snapshot: a folder or a GGUF file if there is one of that name, else a hub id.

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
    if path.is_file() and path.suffix == ".gguf":
        return Located(path.resolve(), path.name, None)
    if path.is_file():
        raise SnapshotError(
            f"'{text}' is a file, and no .gguf. Give the folder that holds it and config.json."
        )
    if isinstance(path_or_hub_id, Path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text):
        raise SnapshotError(f"There is no folder '{text}'.")
    wanted = [*_WANTED, "*.py"] if with_code else list(_WANTED)
    folder = _download(text, revision, local_files_only, wanted, ["*/*"], SnapshotError)
    return Located(folder, text, folder.name)


def find_bundle(bundle: str | Path | None) -> Path:
    """The folder of a bundle: of this name, or downloaded from the hub; None is the reference one.

    Settings are those of `locate`.

    Raises:
        BundleError: no such folder or repository, no access, or offline and not in the cache.
    """
    if bundle is None:
        return bundle_path()
    text = str(bundle)
    path = Path(text).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(text):
        return path
    return _download(text, None, False, _OF_A_BUNDLE, None, BundleError)


def _download(
    repo: str,
    revision: str | None,
    local_files_only: bool,
    wanted: list[str],
    unwanted: list[str] | None,
    failure: type[AtomEdgeError],
) -> Path:
    from huggingface_hub import snapshot_download  # a sixth of a second, for those who download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"'{repo}'" + (f" at revision '{revision}'" if revision else "")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=wanted,
                ignore_patterns=unwanted,
            )
        )
    except HFValidationError as error:
        raise failure(f"There is no folder {where}, and it is no hub id: {error}") from error
    except GatedRepoError as error:
        raise failure(
            f"The repository {where} is gated. Accept its terms on the hub, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise failure(f"The repository '{repo}' has no revision '{revision}'.") from error
    except RepositoryNotFoundError as error:
        raise failure(
            f"There is no folder {where}, and no such repository on the hub. Check the spelling; "
            "for a private repository log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        raise failure(
            f"There is no folder {where}, the hub's cache does not hold it, and the hub "
            "was not asked (local files only, or HF_HUB_OFFLINE) or could not be reached. "
            "Download it first, or check the network."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise failure(f"{where} could not be downloaded: {error}") from error


def push_bundle(bundle: Bundle, repo: str, *, private: bool = False) -> str:
    """Upload a bundle that was opened, and so verified; make the repository if there is none.

    Args:
        bundle: its manifest and the files that it lists are uploaded, in one commit.
        repo: the hub id, `"org/name"`.
        private: for a repository that is made.

    Returns:
        the address of the commit.

    Raises:
        BundleError: no hub id, no permission, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        api = HfApi(library_name="atom-edge")
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=bundle.path,
            allow_patterns=[MANIFEST, *bundle.manifest.files],
            commit_message="Upload a bundle of atom-edge",
        )
    except HFValidationError as error:
        raise BundleError(f"'{repo}' is no hub id: {error}") from error
    except OfflineModeIsEnabled as error:
        raise BundleError("HF_HUB_OFFLINE is set, so nothing is uploaded.") from error
    except (HfHubHTTPError, OSError) as error:
        raise BundleError(
            f"The bundle could not be uploaded to '{repo}': {error} "
            "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
        ) from error
    return str(commit.commit_url)
