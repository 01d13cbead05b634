"""A decoder's cache as a file: what the model computed of a text, to go on from another day.

    atom-edge cache 1\\n     the magic, with the version of the format
    sha256                  32 bytes, of all that follows
    header                  its size in 4 bytes, little-endian; then JSON: see `Header`
    arrays                  what the engine keeps of the tokens, one after the other, little-endian

A file belongs to the graph that made it: with another, even of the same model, the numbers would
mean something else. What is in the arrays is the engine's own affair; a checksum shows damage, and
is not a signature.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import DTypeLike

from atom_edge.border import parse_json, read_file
from atom_edge.bundle import Bundle
from atom_edge.errors import CacheError
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.interface import Array, Engine
from atom_edge.staging import write_file

_NAME = b"atom-edge cache "
_MAGIC = _NAME + b"1\n"
_DIGEST = 32
_SIZE = 4
# What lies behind the tokens of a sequence is masked, but multiplied all the same.
_GREATEST = 1e18
_LIMIT = 2**40  # a sequence's cache has no more; see SECURITY.md


class Header(msgspec.Struct, frozen=True):
    """What the arrays are.

    Attributes:
        graph: sha256 of the graph that made them, in hexadecimal.
        tokens: token ids, in order.
    """

    graph: str
    tokens: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)]


def save_cache(decoder: Decoder, bundle: Bundle, engine: Engine, path: str | Path) -> None:
    """Write what a decoder holds to a file, whole; one that is there stays until then.

    Raises:
        CacheError: if it holds no tokens, or the file cannot be written.
    """
    if not isinstance(decoder, Decoder):
        raise CacheError(f"{reprlib.repr(decoder)} is no decoder: give one from new_decoder.")
    if not decoder.token_ids:
        raise CacheError("The decoder holds no tokens yet, so there is no cache to save.")
    header = msgspec.json.encode(Header(_graph(bundle, engine), decoder.token_ids))
    parts = [len(header).to_bytes(_SIZE, "little"), header]
    parts += [np.ascontiguousarray(array).tobytes() for array in decoder.arrays()]
    body = b"".join(parts)
    try:
        write_file(_path(path), _MAGIC + hashlib.sha256(body).digest() + body)
    except (OSError, ValueError) as error:
        raise CacheError(f"The cache cannot be written to {path}: {error}.") from error


def open_cache(bundle: Bundle, engine: Engine, path: str | Path) -> Decoder:
    """A decoder that holds what a file of `save_cache` does.

    Raises:
        CacheError: if it is no such file, is damaged, or was made by another graph.
    """
    path = _path(path)
    data = read_file(path, _LIMIT, CacheError)
    if not data.startswith(_NAME):
        raise CacheError(f"{path} is not a saved cache.")
    if not data.startswith(_MAGIC):
        raise CacheError(f"{path} was saved by another release of atom-edge. Save it again.")
    start = len(_MAGIC) + _DIGEST
    if hashlib.sha256(memoryview(data)[start:]).digest() != data[len(_MAGIC) : start]:
        raise CacheError(f"{path} is damaged: its contents do not have the sha256 that it states.")
    end = start + _SIZE + int.from_bytes(data[start : start + _SIZE], "little")
    header = parse_json(data[start + _SIZE : end], Header, f"{path}: header", CacheError)
    if header.graph != _graph(bundle, engine):
        raise CacheError(
            f"{path} was made by another graph than the one of {bundle.path} that runs here "
            f"({engine.device}, '{engine.role}'). Make it again from the text."
        )
    _check_tokens(header.tokens, engine, path)
    arrays = _Arrays(data, end, path)
    decoder = Decoder.loaded(engine, header.tokens, arrays.take)
    arrays.close()
    return decoder


def _path(given: str | Path) -> Path:
    if not isinstance(given, str | Path):
        raise CacheError(f"{reprlib.repr(given)} is no path of a file.")
    return Path(given)


def _graph(bundle: Bundle, engine: Engine) -> str:
    return bundle.manifest.files[bundle.manifest.graphs[engine.role]].sha256


def _check_tokens(tokens: Sequence[int], engine: Engine, path: Path) -> None:
    if len(tokens) > engine.context_length:
        raise CacheError(
            f"{path}: header: tokens: {len(tokens)} of them, and the context has "
            f"{engine.context_length}."
        )
    if max(tokens) >= engine.vocab_size:
        raise CacheError(
            f"{path}: header: tokens: there is no token {max(tokens)} among {engine.vocab_size}."
        )


class _Arrays:
    """The arrays of a file, in order."""

    def __init__(self, data: bytes, start: int, path: Path) -> None:
        self._data, self._place, self._path = data, start, path

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """The next one, not to be written to."""
        count = int(np.prod(shape, dtype=object))
        end = self._place + count * np.dtype(dtype).itemsize
        if end > len(self._data):
            raise self._wrong_size()
        array: Array = np.frombuffer(self._data, dtype, count, self._place).reshape(shape)
        if not -_GREATEST < array.min() <= array.max() < _GREATEST:  # false of what is no number
            raise CacheError(f"{self._path} holds numbers that no model computes.")
        self._place = end
        return array

    def close(self) -> None:
        """Check that nothing is left."""
        if self._place != len(self._data):
            raise self._wrong_size()

    def _wrong_size(self) -> CacheError:
        return CacheError(f"{self._path} does not hold as many numbers as its tokens need.")
