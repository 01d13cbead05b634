"""`manifest.json`: what a bundle is, and the size and sha256 of every other file in it."""

from __future__ import annotations

import enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from atom_edge.border import parse_json
from atom_edge.errors import BundleError, IntegrityError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REQUIRED_FILES = ("config.json", "generation_config.json", "tokenizer.json")
MAX_CONTEXT = 2**24
"""Tokens of the longest context that a bundle may have."""

_MAX_NAME = 255  # of a file, on all common file systems


class Role(enum.StrEnum):
    """What a graph of a bundle is for."""

    MODEL = "model"  # prefill and decode on any runtime: the cache goes in and comes out
    PREFILL = "prefill"  # any number of new tokens, over a static cache
    CUDA = "cuda"  # prefill and decode on a GPU, in float16
    NATIVE = "native"  # prefill and decode by the operator of this package


Quantization = Literal["none", "int8"]
Target = Literal["cpu", "native", "cuda", "web"]
Effort = Literal["quick", "full"]


class FileEntry(Struct, frozen=True):
    """A file of the bundle: its size, and its sha256 in lower-case hexadecimal."""

    bytes: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Source(Struct, frozen=True):
    """Where the weights came from.

    Attributes:
        repo: hub id, or name of a folder.
        revision: commit of the hub repository, None for a folder.
        sha256: of each file of weights.
        tensor_names: the school that names the tensors.
        notes: what was chosen where the snapshot does not say it.
        variant: the reading that matches the author's own code, None if that was not run.
        license: of the model, under the hub's name of it, as its card states it.
        license_name: of one of its own.
        license_link: where it is.
        base_model: hub ids of what the weights were made from.
    """

    repo: str | None = None
    revision: str | None = None
    sha256: dict[str, str] = {}
    tensor_names: str | None = None
    notes: list[str] = []
    variant: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: tuple[str, ...] = ()


class Figure(Struct, frozen=True, omit_defaults=True):
    """One measured number.

    Attributes:
        name: an identifier; `label` is the same in words.
        value: what was measured; None if it was not a finite number.
        standard_error: of the value, where it is a mean over a sample.
        limit: what the value must not exceed; None where it only informs.
    """

    name: str
    value: float | None
    standard_error: float | None = None
    limit: float | None = None

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ").replace(".", ", ").replace("kl", "KL")

    @property
    def holds(self) -> bool:
        """Whether the figure is a number, and within its limit."""
        return self.value is not None and (self.limit is None or self.value <= self.limit)

    def __str__(self) -> str:
        """The label, the value with its error, and the limit if that does not hold."""
        if self.value is None:
            return f"{self.label} is not a finite number"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        limit = "" if self.holds else f", over {self.limit:.5g}"
        return f"{self.label} is {self.value:.5g}{error}{limit}"


class Measured(Struct, frozen=True):
    """A way through a bundle's graphs, or one that was not taken, and what was measured of it.

    Attributes:
        path: its name.
        scheme: what was done to the weights, in words.
        figures: in the order of measurement; the last one of what was not taken does not hold.
    """

    path: str
    scheme: str
    figures: tuple[Figure, ...]

    @property
    def failure(self) -> Figure | None:
        """The figure that does not hold; None if all do."""
        return next((figure for figure in self.figures if not figure.holds), None)

    def __getitem__(self, name: str) -> Figure:
        """The figure of a name.

        Raises:
            KeyError: if it was not measured.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)


class Validation(Struct, frozen=True, omit_defaults=True):
    """The comparison with PyTorch, at export.

    Attributes:
        effort: how much text was run; None in a bundle of an older release.
        max_perplexity_ratio: limit for int8; None in float32.
        max_kl: likewise.
        measured: what the bundle's graphs measure, by the way that a session takes through them.
        left_out: faster ways that were tried and do not hold.
    """

    effort: Effort | None = None
    max_perplexity_ratio: float | None = None
    max_kl: float | None = None
    measured: tuple[Measured, ...] = ()
    left_out: tuple[Measured, ...] = ()

    @property
    def failure(self) -> tuple[str, Figure] | None:
        """The first figure that does not hold, and of which path; None if all hold."""
        for measured in self.measured:
            if measured.failure is not None:
                return measured.path, measured.failure
        return None


class Manifest(Struct, frozen=True, kw_only=True):
    """What a bundle says about itself.

    Attributes:
        format_version: of the bundle's layout.
        created_by: version by tool.
        source: where the weights came from.
        target: what kind of machine the graphs are for.
        quantization: how the weights are stored.
        scheme: the same, in words.
        opset: the highest version of standard ONNX among the graphs.
        context_length: tokens of the longest sequence, prompt and reply together.
        graphs: file by role. A role that this release does not know is passed over.
        nodes: number of nodes by graph.
        validation: the figures of the export's comparison with PyTorch.
        files: every file of the bundle but the manifest.
    """

    format_version: int = FORMAT_VERSION
    created_by: dict[str, str] = {}
    source: Source = Source()
    target: Target = "cpu"
    quantization: Quantization = "none"
    scheme: str = ""
    opset: int | None = None
    context_length: Annotated[int, Meta(ge=1, le=MAX_CONTEXT)]
    graphs: dict[str, str]
    nodes: dict[str, int] = {}
    validation: Validation = Validation()
    files: dict[str, FileEntry] = {}

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles for which there is a graph, in the order of the file."""
        return tuple(Role(name) for name in self.graphs if name in set(Role))


class _Version(Struct):
    format_version: Any = None


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse the bytes of a `manifest.json`.

    Args:
        data: the file's content.
        where: its path, for messages.

    Raises:
        BundleError: if it is of a format version that this release cannot read.
        IntegrityError: if it is not a manifest, or lists what no bundle may have.
    """
    version = parse_json(data, _Version, where, IntegrityError).format_version
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{where}: format_version: {version!r}; this release of atom-edge reads "
            f"{FORMAT_VERSION}. Export the model again, or install the release that wrote it."
        )
    manifest = parse_json(data, Manifest, where, IntegrityError)
    for name in manifest.files:
        if not is_inside(name):
            raise IntegrityError(f"{where}: files: {name!r} is not a path inside the bundle.")
    for role, name in manifest.graphs.items():
        if not is_inside(name):
            raise IntegrityError(
                f"{where}: graphs.{role}: {name!r} is not a path inside the bundle."
            )
        if name not in manifest.files:
            raise IntegrityError(f"{where}: graphs.{role}: {name!r} is not among its files.")
    if not manifest.roles:
        raise IntegrityError(
            f"{where}: graphs: there is none that this release of atom-edge knows."
        )
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise IntegrityError(f"{where}: files: {name} is missing.")
    return manifest


def is_inside(name: str) -> bool:
    """Whether a file's name stays inside the bundle, on any operating system."""
    parts = PurePosixPath(name).parts
    return (
        PurePosixPath(*parts).as_posix() == name
        and bool(parts)
        and ".." not in parts
        and not name.startswith("/")
        and not any(c in "\\:" or not c.isprintable() for c in name)
        and all(len(part.encode("utf-8", "replace")) <= _MAX_NAME for part in parts)
        and name != MANIFEST
    )
