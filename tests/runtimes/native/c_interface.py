"""`atom_edge.h` by ctypes."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from atom_edge.bundle import seal
from atom_edge.checkpoint import open_snapshot
from atom_edge.exporters.description import describe
from atom_edge.exporters.native import Scheme, build
from atom_edge.manifest import Manifest
from atom_edge.reference import bundle_path
from atom_edge.runtimes import native

OK, ARGUMENT, BUNDLE, MEMORY, RUNTIME, CANCELLED = range(6)
FINISH = (None, "stop", "length")


class Error(ctypes.Structure):
    _fields_ = (("code", ctypes.c_int), ("message", ctypes.c_char * 512))


class Options(ctypes.Structure):
    _fields_ = (
        ("max_new_tokens", ctypes.c_int64),
        ("temperature", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("repetition_penalty", ctypes.c_double),
        ("has_seed", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("stop", ctypes.POINTER(ctypes.c_char_p)),
        ("stop_count", ctypes.c_size_t),
        ("logprobs", ctypes.c_int64),
    )


class Prompt(ctypes.Structure):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("ids", ctypes.POINTER(ctypes.c_uint32)),
        ("id_count", ctypes.c_size_t),
    )


class Rated(ctypes.Structure):
    _fields_ = (("token_id", ctypes.c_uint32), ("logprob", ctypes.c_double))


class Piece(ctypes.Structure):
    _fields_ = (
        ("prompt", ctypes.c_size_t),
        ("text", ctypes.POINTER(ctypes.c_char)),
        ("size", ctypes.c_size_t),
        ("token_id", ctypes.c_uint32),
        ("finish", ctypes.c_int),
        ("logprob", ctypes.c_double),
        ("top", ctypes.POINTER(Rated)),
        ("top_count", ctypes.c_size_t),
        ("prompt_tokens", ctypes.c_size_t),
        ("truncated_tokens", ctypes.c_size_t),
        ("generation_tokens", ctypes.c_size_t),
        ("prompt_seconds", ctypes.c_double),
        ("generation_seconds", ctypes.c_double),
    )


ON_PIECE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Piece))


class Failed(Exception):
    """What a function of the library said."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message.decode())
        self.code = error.code


@dataclass
class Reply:
    """The pieces of a reply, joined."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish: str | None = None
    logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    prompt_tokens: int = 0
    truncated_tokens: int = 0
    generation_tokens: int = 0

    def take(self, piece: Piece) -> None:
        assert self.finish is None
        text = ctypes.string_at(piece.text, piece.size + 1)
        assert text[-1] == 0
        self.text += text[:-1].decode()
        self.token_ids.append(piece.token_id)
        top = [(rated.token_id, rated.logprob) for rated in piece.top[: piece.top_count]]
        self.logprobs.append((piece.logprob, top))
        self.finish = FINISH[piece.finish]
        self.prompt_tokens = piece.prompt_tokens
        self.truncated_tokens = piece.truncated_tokens
        self.generation_tokens = piece.generation_tokens
        assert 0 < piece.prompt_seconds < 600
        assert 0 <= piece.generation_seconds < 600


def make_bundle(snapshot: Path, folder: Path, **generation: Any) -> Path:
    """The native graph of a snapshot beside the files of the reference bundle."""
    opened = open_snapshot(snapshot)
    folder.mkdir()
    (folder / "onnx").mkdir()
    graph = build(describe(opened.model), Scheme(segment=32))
    (folder / "onnx" / "native.onnx").write_bytes(graph.SerializeToString())
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        shutil.copy(bundle_path() / name, folder / name)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    manifest = Manifest(context_length=512, graphs={"native": "onnx/native.onnx"})
    seal(folder, manifest)
    return folder


def onnxruntime_library() -> Path:
    """The shared library in onnxruntime's package."""
    (path,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return path


def load(path: Path) -> Any:
    """The library, its functions' results declared."""
    library = ctypes.CDLL(str(path))
    for name in ("session_open", "cancellation_new"):
        getattr(library, f"atom_edge_{name}").restype = ctypes.c_void_p
    library.atom_edge_options_default.restype = Options
    library.atom_edge_session_context_length.restype = ctypes.c_size_t
    return library


class Session:
    """A session of the library."""

    def __init__(self, bundle: Path, onnxruntime: Path | None = None, threads: int = 0) -> None:
        path = native.library()
        assert path is not None
        self.library = load(path)
        error = Error()
        self.handle = self.library.atom_edge_session_open(
            str(bundle).encode(),
            str(onnxruntime or onnxruntime_library()).encode(),
            threads,
            ctypes.byref(error),
        )
        if not self.handle:
            raise Failed(error)
        assert (error.code, error.message) == (OK, b"")

    def close(self) -> None:
        self.library.atom_edge_session_free(ctypes.c_void_p(self.handle))

    def options(self, **given: Any) -> Options:
        """The defaults of the bundle, and what is given."""
        options: Options = self.library.atom_edge_options_default(ctypes.c_void_p(self.handle))
        if (seed := given.pop("seed", None)) is not None:
            options.has_seed, options.seed = 1, seed
        if (stop := given.pop("stop", None)) is not None:
            texts = [text.encode() for text in ([stop] if isinstance(stop, str) else stop)]
            options.stop = (ctypes.c_char_p * len(texts))(*texts)
            options.stop_count = len(texts)
        for name, value in given.items():
            setattr(options, name, value)
        return options

    def run(
        self,
        prompts: Sequence[bytes | Sequence[int]],
        options: Options | None,
        on_piece: Callable[[Piece], int],
        cancel: int | None = None,
    ) -> None:
        """Generate, every piece given to the function."""
        given = (Prompt * len(prompts))()
        for place, prompt in zip(given, prompts, strict=True):
            if isinstance(prompt, bytes):
                place.text, place.size = prompt, len(prompt)
            else:
                place.ids, place.id_count = (ctypes.c_uint32 * len(prompt))(*prompt), len(prompt)
        error = Error()
        code = self.library.atom_edge_generate_batch(
            ctypes.c_void_p(self.handle),
            given,
            ctypes.c_size_t(len(prompts)),
            None if options is None else ctypes.byref(options),
            ON_PIECE(lambda _, piece: on_piece(piece.contents)),
            None,
            ctypes.c_void_p(cancel),
            ctypes.byref(error),
        )
        assert code == error.code
        if code:
            raise Failed(error)

    def generate_batch(self, prompts: Sequence[str | Sequence[int]], **options: Any) -> list[Reply]:
        """The replies to several prompts."""
        replies = [Reply() for _ in prompts]

        def take(piece: Piece) -> int:
            replies[piece.prompt].take(piece)
            return 0

        encoded = [prompt.encode() if isinstance(prompt, str) else prompt for prompt in prompts]
        self.run(encoded, self.options(**options), take)
        assert all(reply.finish for reply in replies)
        return replies

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Reply:
        """The reply to a prompt."""
        return self.generate_batch([prompt], **options)[0]


@contextmanager
def opened(bundle: Path, **options: Any) -> Iterator[Session]:
    """A session, freed at the end."""
    session = Session(bundle, **options)
    try:
        yield session
    finally:
        session.close()
