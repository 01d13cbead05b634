"""What is attacked: each kind makes one mutant and tries it.

A trial returns "same", "other" or "allowed" (another result, as the mutant itself asks for), or
raises. An `AtomEdgeError` is a refusal; whatever else is raised is a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from atom_edge.runtimes.chat import Conversation
from atom_edge.runtimes.session import AtomSession
from atom_edge.tokenizer import Tokenizer
from tests.fuzz.calls import command_line, options, saved_cache, templates
from tests.fuzz.mutate import (
    json_bytes,
    mutate_bytes,
    mutate_graph,
    mutate_json,
    mutate_text,
)
from tests.fuzz.place import PROMPT, Place, say, seeds


def _reseal(bundle: Path, name: str) -> None:
    """Let the manifest list a changed file as it is now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    data = (bundle / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def _compare(place: Place, original: Path, mutant: Path) -> str:
    return "same" if say(AtomSession.from_pretrained(mutant)) == place.text(original) else "other"


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
    if rng.random() < 0.2:
        value |= rng.choice(seeds(Path(name).stem))
    else:
        value = mutate_json(value, rng)
    (mutant / name).write_bytes(json_bytes(value, rng))
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
    say(session)
    session.generate_batch([PROMPT, "a"], max_new_tokens=2, temperature=0)
    return "allowed"


def tokenizer(place: Place, rng: Random) -> str:
    """`tokenizer.json`, opened and used both ways."""
    original = json.loads((place.bundles[0] / "tokenizer.json").read_text())
    original["model"]["merges"] = [" ".join(pair) for pair in original["model"]["merges"][:200]]
    file = place.scratch / "tokenizer.json"
    if rng.random() < 0.5:
        original["normalizer"] = rng.choice(seeds("normalizers"))
    if rng.random() < 0.3:
        original["post_processor"] = rng.choice(seeds("post_processors"))
    if rng.random() < 0.3:
        original["decoder"] = rng.choice(seeds("decoders"))
    file.write_bytes(json_bytes(mutate_json(original, rng), rng))
    opened = Tokenizer.from_file(file)
    ids = opened.encode("The water cycle: 12 × 3 = 🙂\n" * 3, add_special_tokens=True)
    opened.decode(ids)
    opened.decode([0, 5, 10**6, 4095])
    for token_id in (0, 1, 300):
        opened.token_text(token_id)
    return "allowed"


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
