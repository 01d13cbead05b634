"""The exported folder: its layout, its manifest, its checks, and how it is written.

    manifest.json            what the bundle is and the size and sha256 of every other file
    config.json              shape of the model
    generation_config.json   special tokens of generation
    tokenizer.json           the tokenizer; tokenizer_config.json beside it
    README.md                the model card
    onnx/*.onnx              the graphs, single files

A bundle is verified before anything in it is opened, and is written aside and renamed, so that a
destination holds a whole bundle or what it held before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from atom_edge.border import format_json, read_file, read_json
from atom_edge.errors import BundleError, IntegrityError
from atom_edge.judge import judge_graph
from atom_edge.manifest import MANIFEST, FileEntry, Manifest, Role, parse_manifest
from atom_edge.staging import clear_leftovers, staged_folder

_MANIFEST_LIMIT = 2**20
_TEMPLATE_LIMIT = 2**20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Only files that the manifest lists, with their sha256, are ever read.

    Attributes:
        path: the folder.
        manifest: what the bundle says about itself.
        config: the parsed `config.json`.
        generation_config: the parsed `generation_config.json`.
        tokenizer_config: the parsed `tokenizer_config.json`, empty if there is none.
        chat_template: the Jinja template of a chat model, None for a base model.
    """

    path: Path
    manifest: Manifest
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    chat_template: str | None

    @property
    def tokenizer_file(self) -> Path:
        """Where `tokenizer.json` is."""
        return self.path / "tokenizer.json"

    @property
    def context_length(self) -> int:
        """The longest sequence, prompt and reply together, in tokens."""
        return self.manifest.context_length

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles for which the bundle has a graph."""
        return self.manifest.roles

    def graph(self, role: str = Role.MODEL) -> Path:
        """The ONNX file of a role.

        Raises:
            BundleError: if the bundle has no such graph.
        """
        if role not in self.roles:
            raise BundleError(
                f"The bundle {self.path} has no graph for '{role}'; it has {', '.join(self.roles)}."
            )
        return self.path / self.manifest.graphs[role]

    def read_graph(self, role: str = Role.MODEL) -> bytes:
        """The bytes of the graph of a role, checked and judged: what a session is made of.

        Raises:
            BundleError: if the bundle has no such graph.
            IntegrityError: if the file is not the one that the manifest lists, any more, or is
                not a graph that the exporter writes; see `judge_graph`.
        """
        path = self.graph(role)
        expected = self.manifest.files[self.manifest.graphs[role]]
        data = read_file(path, expected.bytes, IntegrityError)
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise IntegrityError(
                f"{path} is not the file that its manifest lists, or was replaced after the bundle "
                "was opened. Open the bundle again."
            )
        judge_graph(data, Role(role), self.context_length, str(path))
        return data


def open_bundle(path: str | Path) -> Bundle:
    """Verify a bundle and read its JSON files.

    Raises:
        BundleError: if the folder is missing or of a format version that this release cannot read.
        IntegrityError: if a listed file is missing or changed, if a file that is needed is not
            listed, or if a graph keeps tensors in other files.
    """
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"There is no bundle {root}: it is neither a folder nor a hub id.")
    before = _identity(root)
    try:
        bundle = _open(root)
    except (BundleError, OSError):
        if _identity(root) == before:
            raise
    else:
        if _identity(root) == before:
            return bundle
    return open_bundle(path)  # an export has put another one in its place meanwhile


def _identity(folder: Path) -> tuple[int, int] | None:
    """What stays the same as long as the folder is not replaced by another."""
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _open(root: Path) -> Bundle:
    if not (root / MANIFEST).is_file():
        raise BundleError(
            f"{root} is not a bundle: it has no {MANIFEST}. "
            f"Make one from a model folder with: atom-edge export {root} -o DIR"
        )
    manifest = parse_manifest(
        read_file(root / MANIFEST, _MANIFEST_LIMIT, IntegrityError), str(root / MANIFEST)
    )
    for name, expected in manifest.files.items():
        _check_file(root, name, expected)
    _check_nothing_else(root, manifest)
    tokenizer_config = (
        _read_object(root / "tokenizer_config.json")
        if "tokenizer_config.json" in manifest.files
        else {}
    )
    template = tokenizer_config.get("chat_template")
    if "chat_template.jinja" in manifest.files:
        template = _read_text(root / "chat_template.jinja")
    config = _read_object(root / "config.json")
    _check_context(manifest, config, root)
    return Bundle(
        path=root,
        manifest=manifest,
        config=config,
        generation_config=_read_object(root / "generation_config.json"),
        tokenizer_config=tokenizer_config,
        chat_template=template if isinstance(template, str) and template else None,
    )


def _check_context(manifest: Manifest, config: dict[str, Any], root: Path) -> None:
    """Positions past the model's last one have no place in its tables."""
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and manifest.context_length > positions:
        raise IntegrityError(
            f"{root / MANIFEST}: context_length: {manifest.context_length}, and the model has "
            f"{positions} positions (config.json: max_position_embeddings)."
        )


def seal(staging: Path, manifest: Manifest) -> Manifest:
    """Write `manifest.json` of a complete staging folder and return what was written.

    Its `files` become the size and sha256 of every file in the folder.

    Raises:
        BundleError: if a figure in the manifest is not finite.
        IntegrityError: if the manifest names a graph that is not there, or such a file is missing.
    """
    names = sorted(
        file.relative_to(staging).as_posix()
        for file in staging.rglob("*")
        if file.is_file() and file != staging / MANIFEST
    )
    files = {
        name: FileEntry((staging / name).stat().st_size, _sha256(staging / name)) for name in names
    }
    try:
        data = format_json(msgspec.structs.replace(manifest, files=files))
    except ValueError as error:
        raise BundleError(f"The manifest has a figure that is not finite: {error}.") from error
    sealed = parse_manifest(data, str(staging / MANIFEST))
    (staging / MANIFEST).write_bytes(data)
    return sealed


@contextlib.contextmanager
def write_bundle(destination: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Give a new folder beside `destination`; when the block ends well, it takes its place.

    An exception in the block, Ctrl+C included, removes the folder and leaves `destination` as it
    was. With `force` an existing bundle or empty folder is replaced; nothing else ever is. What an
    export that was killed left there is cleared away.

    Raises:
        BundleError: before the block, if `destination` is taken; after it, if `seal` was not
            called.
    """
    target = Path(destination).resolve()
    clear_leftovers(target)
    check_destination(target, force)
    with staged_folder(target) as staging:
        yield staging
        if not (staging / MANIFEST).is_file():
            raise BundleError(f"The bundle for {target} has no {MANIFEST}: it was never sealed.")
        check_destination(target, force)


def _read_object(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any], IntegrityError)


def _read_text(path: Path) -> str:
    try:
        return read_file(path, _TEMPLATE_LIMIT, IntegrityError).decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} is not UTF-8 (byte {error.start}).") from error


def _check_file(root: Path, name: str, expected: FileEntry) -> None:
    path = root / name
    if not path.is_file():
        raise IntegrityError(f"The bundle {root} lacks its file {name}. Fetch or export it again.")
    size = path.stat().st_size
    if size != expected.bytes:
        raise IntegrityError(
            f"{path} has {size} bytes, and the manifest says {expected.bytes}: "
            "it is damaged or was changed. Fetch or export the bundle again."
        )
    if _sha256(path) != expected.sha256:
        raise IntegrityError(
            f"{path} does not have the sha256 that the manifest gives: "
            "it is damaged or was changed. Fetch or export the bundle again."
        )


def _check_nothing_else(root: Path, manifest: Manifest) -> None:
    """Refuse files that the manifest does not list, and links that leave the bundle.

    Hidden files at the top, as hubs and file browsers put there, are never read. In a cache of the
    Hugging Face Hub, `REPO/snapshots/REVISION`, every file is a link to `REPO/blobs`.
    """
    snapshots = [folder for folder in root.resolve().parents if folder.name == "snapshots"]
    blobs = [folder.parent / "blobs" for folder in snapshots]
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not name.startswith(".")]
        for name in (*folders, *names):
            path = here / name
            if path.is_symlink() and path.resolve().parent not in blobs:
                raise IntegrityError(f"{path} is a link, so the bundle is not opened.")
        for name in names:
            listed = (here / name).relative_to(root).as_posix()
            if listed not in manifest.files and listed != MANIFEST:
                raise IntegrityError(
                    f"The bundle {root} holds {listed!r}, which its manifest does not list. "
                    "Remove it, or fetch or export the bundle again."
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_destination(target: Path, force: bool) -> None:
    """Raise `BundleError` unless a bundle may be written to `target`: only with `force` over one.

    For callers that want to know before long work begins; `write_bundle` checks by itself.
    """
    if not target.exists():
        _check_can_be_made(target)
        return
    if not force:
        raise BundleError(f"{target} exists. Choose another folder, or replace it with --force.")
    if target.is_dir() and not any(target.iterdir()):
        return
    try:
        data = read_file(target / MANIFEST, _MANIFEST_LIMIT, IntegrityError)
        listed = parse_manifest(data, str(target / MANIFEST)).files
    except BundleError as error:
        raise BundleError(
            f"{target} is not a bundle of atom-edge, and --force replaces nothing else. "
            f"Choose another folder, or remove it first. ({error})"
        ) from error
    for file in target.rglob("*"):
        name = file.relative_to(target).as_posix()
        if name not in listed and name != MANIFEST and (file.is_symlink() or not file.is_dir()):
            raise BundleError(
                f"{target} holds {name!r}, which its manifest does not list, and --force would "
                "remove it. Move it elsewhere first."
            )


def _check_can_be_made(target: Path) -> None:
    nearest = next(folder for folder in target.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise BundleError(f"{target} cannot be made: {nearest} is not a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise BundleError(f"{target} cannot be made: you may not write in {nearest}.")
