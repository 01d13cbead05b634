"""Kinds of what a program or a user gives to an open bundle; see `kinds.py`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import sys
from collections.abc import Iterator
from random import Random

from atom_edge.runtimes.template import ChatTemplate
from tests.fuzz.mutate import ODD_VALUES, json_bytes, mutate_bytes, mutate_json
from tests.fuzz.place import PROMPT, Place, say, seeds

_MESSAGES = [{"role": "user", "content": "hello"}]


def options(place: Place, rng: Random) -> str:
    """Options and prompts of `generate`, `stream` and `generate_batch`."""
    session = place.session(rng.choice(place.bundles))
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    names += ("seed", "stop", "logprobs", "decoder", "nonesuch")
    odd = (*ODD_VALUES, 1e-320, b"x", object(), iter("ab"), ("a", "b"), 2.5, [1, 2, 3], -5)
    chosen = {name: rng.choice(odd) for name in rng.sample(names, rng.choice((0, 1, 1, 2)))}
    chosen.setdefault("max_new_tokens", 3)
    prompts = (*odd, PROMPT, "x" * 3000, [10**9], [-1], [0] * 500, [True], [1.0], range(5))
    prompt = rng.choice(prompts) if rng.random() < 0.5 else PROMPT
    match rng.randrange(4):
        case 0:
            session.generate(prompt, **chosen)
        case 1:
            for _, _ in zip(session.stream(prompt, **chosen), range(4), strict=False):
                pass
        case 2:
            session.generate_batch([PROMPT, prompt], **chosen)
        case _:
            session.generate_batch(prompt, **chosen)
    return "allowed"


def saved_cache(place: Place, rng: Random) -> str:
    """A decoder's cache in a file; most often with the checksum of what it holds."""
    original = rng.choice(place.bundles)
    session = place.session(original)
    decoder = session.new_decoder()
    prompt = PROMPT * rng.choice((1, 5))
    expected = [
        piece.text
        for piece in session.stream(prompt, decoder=decoder, max_new_tokens=3, temperature=0)
    ]
    file = place.scratch / "cache"
    session.save_cache(decoder, file)
    data = file.read_bytes()
    start = data.index(b"\n") + 1 + hashlib.sha256().digest_size
    body = data[start:]
    size = int.from_bytes(body[:4], "little")
    header, arrays = body[4 : 4 + size], body[4 + size :]
    sealed = rng.random() < 0.8
    match rng.randrange(4):
        case 0:
            header = json_bytes(mutate_json(json.loads(header), rng), rng)
        case 1:
            arrays = mutate_bytes(arrays, rng)
        case 2:
            odd = rng.choice((float("nan"), float("inf"), 1e38, -1e38, 1e17, 1e-40))
            place_of = 4 * rng.randrange(len(arrays) // 4)
            arrays = arrays[:place_of] + struct.pack("<f", odd) + arrays[place_of + 4 :]
        case _:
            body = mutate_bytes(data, rng)[start:]
            size = -1
    if size >= 0:
        body = len(header).to_bytes(4, "little") + header + arrays
    digest = hashlib.sha256(body).digest() if sealed else data[start - 32 : start]
    file.write_bytes(data[: start - 32] + digest + body)
    opened = session.open_cache(file)
    found = [
        piece.text
        for piece in session.stream(prompt, decoder=opened, max_new_tokens=3, temperature=0)
    ]
    # What a cache held must not reach a reply that has another.
    assert say(session) == place.text(original)
    return "same" if found == expected else "allowed" if sealed else "other"


def templates(place: Place, rng: Random) -> str:
    """Chat templates, hostile ones first."""
    source = rng.choice(seeds("templates"))
    if rng.random() < 0.6:
        source = mutate_bytes(source.encode(), rng).decode(errors="replace")
    text = ChatTemplate(source, {"bos_token": rng.choice(("<s>", {"content": "<s>"}))})
    text.render(_MESSAGES)
    return "allowed"


_WORDS = (
    *("generate", "inspect", "validate", "bench", "chat", "doctor", "export", "--help", "nonesuch"),
    *("--bundle", "--json", "--threads", "0", "-1", "1e400", "nan", "-n", "3", "-t", "", "\x1b[2J"),
    *(
        "--stop",
        "\\",
        "\\x",
        "--seed",
        "--top-p",
        "/dev/null",
        "/nonesuch/x",
        "x" * 5000,
        "--",
        "-",
    ),
    *("--provider", "cuda", "--version", "\udc80", "--echo", "-o", "/proc/x", "--force", "[/x]"),
)


def command_line(place: Place, rng: Random) -> str:
    """Words on the command line."""
    import atom_edge.cli

    words = rng.choices(_WORDS, k=rng.randrange(5))
    command = rng.choice(("generate", "inspect", "validate", "export", "doctor"))
    bundle = rng.choice((str(place.bundles[0]), str(place.scratch), "\x1b", "/dev/zero"))
    words = rng.choice((words, [command, *words], ["inspect", bundle, *words]))
    if "bench" in words or "doctor" in words or ("validate" in words and bundle not in words):
        words = ["--version"]
    if words[:1] == ["export"]:  # never of the reference model, which takes its time
        words += ["/nonesuch"]
    if "generate" in words and "-n" not in words:
        words += ["-n", "2"]
    before, sys.argv = sys.argv, ["atom-edge", *words]
    out, err = io.StringIO(), io.StringIO()
    with _no_stdin(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            atom_edge.cli.main()
        except SystemExit as leaving:
            if leaving.code not in (None, 0, 1, 2):
                raise
        finally:
            sys.argv = before
    assert "Traceback" not in err.getvalue(), err.getvalue()[-2000:]
    assert "error: unexpected " not in err.getvalue(), err.getvalue()
    assert "\x1b[2J" not in out.getvalue() + err.getvalue(), "a control sequence"
    return "allowed"


@contextlib.contextmanager
def _no_stdin() -> Iterator[None]:
    stdin = io.TextIOWrapper(io.BytesIO(b"hello\n"))
    before, sys.stdin = sys.stdin, stdin
    try:
        yield
    finally:
        sys.stdin = before
