"""A cache as a file: it goes on with the same text, and what is no such file is refused."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from atom_edge.errors import CacheError
from atom_edge.runtimes.session import AtomSession

PROMPT = "The water cycle is how water moves around the earth."
MAGIC = b"atom-edge cache 1\n"


@pytest.fixture(scope="module", params=["small_bundle", "small_int8_bundle"])
def any_session(request: pytest.FixtureRequest) -> AtomSession:
    """Sessions of two engines."""
    return AtomSession.from_pretrained(request.getfixturevalue(request.param), threads=1)


@pytest.fixture
def saved(session: AtomSession, tmp_path: Path) -> Path:
    """A cache of the prompt and a reply."""
    return save(session, tmp_path / "cache")


def save(session: AtomSession, path: Path) -> Path:
    decoder = session.new_decoder()
    list(session.stream(PROMPT, decoder=decoder, max_new_tokens=9, temperature=0))
    session.save_cache(decoder, path)
    return path


def parts(path: Path) -> tuple[dict[str, object], bytes]:
    """Header and arrays."""
    body = path.read_bytes()[len(MAGIC) + 32 :]
    (size,) = struct.unpack("<I", body[:4])
    return msgspec.json.decode(body[4 : 4 + size]), body[4 + size :]


def write(path: Path, header: bytes, arrays: bytes, size: int | None = None) -> None:
    """Such a file, with the checksum of what is in it."""
    body = struct.pack("<I", len(header) if size is None else size) + header + arrays
    path.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)


def test_a_reply_goes_on_in_another_session_and_nothing_is_computed_again(
    any_session: AtomSession, tmp_path: Path
) -> None:
    decoder = any_session.new_decoder()
    begun = list(any_session.stream(PROMPT, decoder=decoder, max_new_tokens=9, temperature=0))
    any_session.save_cache(decoder, tmp_path / "cache")
    another = AtomSession.from_pretrained(any_session.bundle.path, threads=1)
    opened = another.open_cache(tmp_path / "cache")
    assert opened.token_ids == decoder.token_ids
    prompt = [*any_session.tokenizer.encode(PROMPT), *(piece.token_id for piece in begun)]
    fed = record_fed(opened)
    replies = [
        [
            piece.token_id
            for piece in each.stream(prompt, decoder=held, max_new_tokens=30, temperature=0)
        ]
        for each, held in ((another, opened), (any_session, decoder))
    ]
    assert replies[0] == replies[1]
    assert fed[0] == 1  # the last token of a prompt is always run


def record_fed(decoder: object) -> list[int]:
    """How many tokens are fed to a decoder in each run, from now on."""
    counts: list[int] = []
    for name in ("feed", "choose"):
        run = getattr(decoder, name)

        def recording(tokens: list[int], *rest: object, run: Callable[..., object] = run) -> object:
            counts.append(len(tokens))
            return run(tokens, *rest)

        setattr(decoder, name, recording)
    return counts


def test_the_same_tokens_make_the_same_file(session: AtomSession, tmp_path: Path) -> None:
    first, second = save(session, tmp_path / "1"), save(session, tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_replaced_and_keeps_its_mode(session: AtomSession, saved: Path) -> None:
    saved.write_bytes(b"old")
    saved.chmod(0o600)
    save(session, saved)
    assert session.open_cache(saved).token_ids
    assert saved.stat().st_mode & 0o777 == 0o600


def test_each_changed_byte_is_found(session: AtomSession, saved: Path) -> None:
    data = saved.read_bytes()
    rng = np.random.default_rng(13)
    for place in (*range(40), *rng.integers(len(data), size=100)):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(changed)
        with pytest.raises(CacheError):
            session.open_cache(saved)
    for length in (0, 5, 18, 30, 50, 60, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(CacheError):
            session.open_cache(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": "0" * 64}, "was made by another graph"),
        ({"tokens": []}, r"header: tokens: expected array of length >= 1"),
        ({"tokens": [1, -1]}, r"tokens.1: expected int >= 0"),
        ({"tokens": [1, 2**70]}, "tokens"),
        ({"tokens": [1, 10**6]}, "there is no token 1000000 among"),
        ({"tokens": [1] * 129}, "129 of them, and the context has 128"),
        ({"tokens": [1, True]}, "expected int, got bool"),
        ({"tokens": [1, 2]}, "does not hold as many numbers as its tokens need"),
        ({"tokens": [1] * 100}, "does not hold as many numbers as its tokens need"),
    ],
)
def test_a_header_that_says_something_else(
    session: AtomSession, saved: Path, change: dict[str, object], message: str
) -> None:
    header, arrays = parts(saved)
    write(saved, json.dumps({**header, **change}).encode(), arrays)
    with pytest.raises(CacheError, match=message):
        session.open_cache(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_numbers_that_no_model_computes(session: AtomSession, saved: Path, value: float) -> None:
    header, arrays = parts(saved)
    numbers = np.frombuffer(arrays, np.float32).copy()
    numbers[7] = value
    write(saved, msgspec.json.encode(header), numbers.tobytes())
    with pytest.raises(CacheError, match="numbers that no model computes"):
        session.open_cache(saved)


@pytest.mark.parametrize("size", [0, 3, 2**31])
def test_a_header_s_size_that_is_wrong(session: AtomSession, saved: Path, size: int) -> None:
    header, arrays = parts(saved)
    write(saved, msgspec.json.encode(header), arrays, size)
    with pytest.raises(CacheError, match="header is not readable JSON"):
        session.open_cache(saved)


def test_another_engine_s_and_another_release_s_are_refused(
    session: AtomSession, small_int8_bundle: Path, saved: Path
) -> None:
    with pytest.raises(CacheError, match="was made by another graph"):
        AtomSession.from_pretrained(small_int8_bundle).open_cache(saved)
    saved.write_bytes(saved.read_bytes().replace(b"cache 1\n", b"cache 2\n"))
    with pytest.raises(CacheError, match="another release of atom-edge"):
        session.open_cache(saved)
    saved.write_bytes(b"\x89PNG")
    with pytest.raises(CacheError, match="is not a saved cache"):
        session.open_cache(saved)


def test_what_is_no_file(session: AtomSession, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", Path("/dev/zero"), "a\x00b"):
        with pytest.raises(CacheError):
            session.open_cache(path)
    for path in (tmp_path, tmp_path / "none" / "x", tmp_path / "pipe", "/dev/null", "a\x00b"):
        with pytest.raises(CacheError):
            save(session, Path(path))
    assert Path("/dev/null").is_char_device()


def test_wrong_arguments(session: AtomSession, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="holds no tokens yet"):
        session.save_cache(session.new_decoder(), tmp_path / "cache")
    with pytest.raises(CacheError, match="one from new_decoder"):
        session.save_cache("decoder", tmp_path / "cache")
    for path in (None, 5, b"x"):
        with pytest.raises(CacheError, match="is no path"):
            session.open_cache(path)
