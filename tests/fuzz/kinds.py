"""What is attacked: each kind makes one mutant and tries it.

A trial returns "same", "other" or "allowed" (another result, as the mutant itself asks for), or
raises. An `AtomEdgeError` is a refusal; whatever else is raised is a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from atom_edge.runtimes.chat import Conversation
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.template import ChatTemplate
from atom_edge.tokenizer import Tokenizer
from tests.fuzz.mutate import (
    ODD_VALUES,
    json_bytes,
    mutate_bytes,
    mutate_graph,
    mutate_json,
    mutate_text,
)

PROMPT = "The water cycle is"
NEW_TOKENS = 6
_MESSAGES = [{"role": "user", "content": "hello"}]


class Place:
    """Where the valid files lie, and where mutants are put.

    Attributes:
        bundles: of the same small model.
        snapshot: the model.
        scratch: an empty folder.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.bundles = sorted((root / "bundles").iterdir())
        self.snapshot = root / "snapshot"
        self.scratch = scratch
        self._texts: dict[Path, str] = {}
        self._sessions: dict[Path, AtomSession] = {}

    def session(self, bundle: Path) -> AtomSession:
        """The bundle as it should be, opened."""
        if bundle not in self._sessions:
            self._sessions[bundle] = AtomSession.from_pretrained(bundle)
        return self._sessions[bundle]

    def text(self, bundle: Path) -> str:
        """What the bundle says, as it should be."""
        if bundle not in self._texts:
            self._texts[bundle] = _say(self.session(bundle))
        return self._texts[bundle]

    def copy(self, folder: Path) -> Path:
        """A copy that may be changed."""
        target = self.scratch / "mutant"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        return target


def _say(session: AtomSession) -> str:
    return session.generate(PROMPT, max_new_tokens=NEW_TOKENS, temperature=0).text


def _reseal(bundle: Path, name: str) -> None:
    """Let the manifest list a changed file as it is now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    data = (bundle / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def _compare(place: Place, original: Path, mutant: Path) -> str:
    return "same" if _say(AtomSession.from_pretrained(mutant)) == place.text(original) else "other"


def bundle_bytes(place: Place, rng: Random) -> str:
    """Any file of a bundle, its bytes."""
    original = rng.choice(place.bundles)
    mutant = place.copy(original)
    file = rng.choice([path for path in sorted(mutant.rglob("*")) if path.is_file()])
    file.write_bytes(mutate_bytes(file.read_bytes(), rng))
    return _compare(place, original, mutant)


def manifest(place: Place, rng: Random) -> str:
    """The manifest, every field and type."""
    original = rng.choice(place.bundles)
    mutant = place.copy(original)
    file = mutant / "manifest.json"
    before = json.loads(file.read_text())
    changed = mutate_json(before, rng)
    file.write_bytes(json_bytes(changed, rng))
    found = _compare(place, original, mutant)
    asked = any(changed.get(key) != before[key] for key in ("context_length", "graphs"))
    return "allowed" if found == "other" and asked else found


def inspect(place: Place, rng: Random) -> str:
    """The manifest, shown."""
    from atom_edge.cli import app

    mutant = place.copy(rng.choice(place.bundles))
    file = mutant / "manifest.json"
    file.write_bytes(json_bytes(mutate_json(json.loads(file.read_text()), rng), rng))
    options = ["--json"] if rng.random() < 0.3 else []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        app(["inspect", str(mutant), *options], standalone_mode=False)
    for character in printed.getvalue():
        assert character == "\n" or ord(character) >= 32 or options, "a control character"
    return "same"


def json_files(place: Place, rng: Random) -> str:
    """The other JSON files, resealed: opened, made to speak and to chat."""
    original = rng.choice(place.bundles)
    mutant = place.copy(original)
    names = ("config.json", "generation_config.json", "tokenizer_config.json")
    name = rng.choice(names)
    value = json.loads((mutant / name).read_text())
    if name == "tokenizer_config.json" and rng.random() < 0.5:
        value["chat_template"] = "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}"
    elif name == "generation_config.json" and rng.random() < 0.7:
        value |= {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1}
        value |= {"max_new_tokens": 20, "repetition_penalty": 1.1}
    (mutant / name).write_bytes(json_bytes(mutate_json(value, rng), rng))
    _reseal(mutant, name)
    session = AtomSession.from_pretrained(mutant)
    session.generate(PROMPT, max_new_tokens=2)
    session.generate_batch([PROMPT, ""], max_new_tokens=2)
    list(Conversation(session, {"max_new_tokens": 2}).say("hello"))
    return "allowed"


def graph_bits(place: Place, rng: Random) -> str:
    """A graph's bytes, resealed."""
    return _graph(place, rng, mutate_bytes)


def graph_structure(place: Place, rng: Random) -> str:
    """A graph's nodes, tensors, inputs and outputs, resealed."""
    return _graph(place, rng, mutate_graph)


def _graph(place: Place, rng: Random, mutate: Callable[[bytes, Random], bytes]) -> str:
    mutant = place.copy(rng.choice(place.bundles))
    file = rng.choice(sorted(mutant.glob("onnx/*.onnx")))
    file.write_bytes(mutate(file.read_bytes(), rng))
    _reseal(mutant, file.relative_to(mutant).as_posix())
    session = AtomSession.from_pretrained(mutant)
    _say(session)
    session.generate_batch([PROMPT, "a"], max_new_tokens=2, temperature=0)
    return "allowed"


def tokenizer(place: Place, rng: Random) -> str:
    """`tokenizer.json`, opened and used both ways."""
    original = json.loads((place.bundles[0] / "tokenizer.json").read_text())
    original["model"]["merges"] = [" ".join(pair) for pair in original["model"]["merges"][:200]]
    file = place.scratch / "tokenizer.json"
    if rng.random() < 0.5:
        original["normalizer"] = rng.choice(_NORMALIZERS)
    if rng.random() < 0.3:
        original["post_processor"] = rng.choice(_POST_PROCESSORS)
    if rng.random() < 0.3:
        original["decoder"] = rng.choice(_DECODERS)
    file.write_bytes(json_bytes(mutate_json(original, rng), rng))
    opened = Tokenizer.from_file(file)
    ids = opened.encode("The water cycle: 12 × 3 = 🙂\n" * 3, add_special_tokens=True)
    opened.decode(ids)
    opened.decode([0, 5, 10**6, 4095])
    for token_id in (0, 1, 300):
        opened.token_text(token_id)
    return "allowed"


_NORMALIZERS: tuple[Any, ...] = (
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x" * 1000},
    {"type": "Replace", "pattern": {"String": "e"}, "content": "ee" * 500},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Prepend", "prepend": ""},
    {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Strip"}]},
)
_POST_PROCESSORS: tuple[Any, ...] = (
    {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 10**9]},
    {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "x", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {"x": {"id": "x", "ids": [1], "tokens": ["x"]}},
    },
)
_DECODERS: tuple[Any, ...] = (
    {"type": "Strip", "content": " ", "start": 10**9, "stop": 0},
    {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
)


def snapshot(place: Place, rng: Random) -> str:
    """A snapshot's configuration, weights, texts and tokenizer."""
    from atom_edge.checkpoint import open_snapshot

    mutant = place.copy(place.snapshot)
    (mutant / "README.md").write_text("---\ntags: [a]\n---\nA model.\n")
    file = rng.choice(sorted(path for path in mutant.iterdir() if path.is_file()))
    data = file.read_bytes()
    if file.suffix == ".json":
        file.write_bytes(json_bytes(mutate_json(json.loads(data), rng), rng))
    elif file.suffix == ".safetensors":
        file.write_bytes(_mutate_safetensors(data, rng))
    else:
        file.write_bytes(mutate_text(data.decode(), rng))
    open_snapshot(mutant)
    return "allowed"


def _mutate_safetensors(data: bytes, rng: Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return mutate_bytes(data[: 8 + size], rng) + data[8 + size :]
    header = json_bytes(mutate_json(json.loads(data[8 : 8 + size]), rng), rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


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
    assert _say(session) == place.text(original)
    return "same" if found == expected else "allowed" if sealed else "other"


_TEMPLATES = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 2 ** (2 ** 40) }}",
    "{{ 'x' * (10 ** 10) }}",
    "{{ lipsum(n=10000) }}",
    "{% set s = 'x' %}{% for i in range(60) %}{% set s = s ~ s %}{% endfor %}",
    "{% set ns = namespace(s='x') %}"
    "{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'x'.center(10 ** 10) }}",
    "{{ messages | tojson(indent=10 ** 9) }}",
    "{{ 'x' | center(10 ** 10) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ raise_exception('no') }}{{ strftime_now('%Y' * 99) }}",
    "{% include 'x' %}",
    "{{ undefined.x.y }}{{ 1 / 0 }}{{ messages[99] }}",
    "{{ messages | map(attribute='content') | join | list | tojson }}",
    "{{ [1, 2] | sum(start=[]) }}{{ {} | dictsort }}{{ 'a' | int(base=99) }}",
    "{% for a in 'x' * 1000 %}{% for b in 'x' * 1000 %}{% for c in 'xxxx' * 999 %}"
    "{% endfor %}{% endfor %}{% endfor %}",
)


def templates(place: Place, rng: Random) -> str:
    """Chat templates, hostile ones first."""
    source = rng.choice(_TEMPLATES)
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
    if words[:1] == ["export"] and "-o" not in words:
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


KINDS: dict[str, Callable[[Place, Random], str]] = {
    kind.__name__: kind
    for kind in (
        *(bundle_bytes, manifest, inspect, json_files, graph_bits, graph_structure, tokenizer),
        *(snapshot, options, templates, command_line, saved_cache),
    )
}
# Where another result than before, without a word, is a failure.
STRICT = ("bundle_bytes", "manifest", "inspect", "saved_cache")
# How many mutants of a kind, beside those of the others.
SHARES = {
    **{"bundle_bytes": 5, "manifest": 20, "inspect": 8, "json_files": 10, "graph_bits": 5},
    **{"graph_structure": 15, "tokenizer": 12, "snapshot": 4, "options": 14, "templates": 2},
    **{"command_line": 5, "saved_cache": 5},
}
