"""Other runtimes open the bundle, and continue a prompt with the same greedy tokens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime_genai as og
import pytest

from atom_edge.bundle import open_bundle, seal
from atom_edge.checkpoint import open_snapshot
from atom_edge.exporters.choose import save_graph
from atom_edge.exporters.export import write_texts
from atom_edge.exporters.trace import trace
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.portable import PortableEngine
from atom_edge.runtimes.session import AtomSession

MakeSnapshot = Callable[..., Path]

ROOT = Path(__file__).parents[2]
PROMPTS = ("The water cycle is", "Once upon a time, there was a", "2 + 2 =", "Ünïcödé 水")
TOKENS = 24
END = {2, 4}
STRINGS = (
    "The water cycle is",
    " leading and trailing ",
    "two  spaces,   three\ttab\n\nlines\r\n",
    "I'll we're don't 'S 'LL",
    "123456789 3.14 1,000,000 ٣",
    "naïve café Ünïcödé ß ﬁ",
    "水循环は、Ελληνικά, русский, עברית, हिन्दी",
    "👍🏽 👨‍👩‍👧‍👦 🇺🇳",
    "def f(x):\n    return x**2  # !?",
    "a\u00a0b\u200bc\ufeffd",
    "<|eos|> is special, <|nothing|> is not",
    "e\u0301 and é",
    "end",
    "",
)


def expected_tokens(bundle: Path) -> list[list[int]]:
    """Greedy tokens of the portable graph, which is what the others open; at most `TOKENS`."""
    opened, session = open_bundle(bundle), AtomSession.from_pretrained(bundle)
    engine = PortableEngine.open(opened)
    replies = []
    for prompt in PROMPTS:
        decoder = Decoder(engine)
        logits, reply = decoder.feed(session.tokenizer.encode(prompt)), list[int]()
        while len(reply) < TOKENS and (token := int(logits.argmax())) not in END:
            reply.append(token)
            logits = decoder.feed([token])
        replies.append(reply)
    assert any(len(set(reply)) > 3 for reply in replies), "the replies say something"
    return replies


def without_end(reply: list[int]) -> list[int]:
    return [token for token in reply if token not in END]


def test_our_own_session_agrees(small_bundle: Path) -> None:
    session = AtomSession.from_pretrained(small_bundle)
    for prompt, expected in zip(PROMPTS, expected_tokens(small_bundle), strict=True):
        reply = session.generate(prompt, max_new_tokens=TOKENS, temperature=0)
        assert without_end(list(reply.token_ids)) == expected


@pytest.fixture(scope="module")
def even_bundle(make_snapshot: MakeSnapshot, small_bundle: Path, tmp_path_factory) -> Path:
    """A bundle whose head size is hidden size / heads, as Atom's is: optimum reads no other."""
    snapshot = open_snapshot(make_snapshot(head_dim=16))
    folder: Path = tmp_path_factory.mktemp("bundles") / "even"
    save_graph(trace(snapshot.decoder), folder / "onnx" / "model.onnx")
    manifest = open_bundle(small_bundle).manifest
    manifest = msgspec.structs.replace(manifest, graphs={"model": "onnx/model.onnx"})
    write_texts(folder, snapshot, manifest)
    seal(folder, manifest)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_optimum(even_bundle: Path) -> None:
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    model = ORTModelForCausalLM.from_pretrained(
        even_bundle, subfolder="onnx", file_name="model.onnx"
    )
    tokenizer = AutoTokenizer.from_pretrained(even_bundle)
    ours = AtomSession.from_pretrained(even_bundle).tokenizer
    for text in STRINGS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    for prompt, expected in zip(PROMPTS, expected_tokens(even_bundle), strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=TOKENS,
            do_sample=False,
        )
        assert without_end(output[0, inputs["input_ids"].shape[1] :].tolist()) == expected


@pytest.mark.parametrize("fixture", ["small_bundle", "small_int8_bundle"])
def test_onnxruntime_genai(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Path = request.getfixturevalue(fixture)
    model = og.Model(str(bundle))
    tokenizer = AtomSession.from_pretrained(bundle).tokenizer
    for prompt, expected in zip(PROMPTS, expected_tokens(bundle), strict=True):
        ids = tokenizer.encode(prompt)
        params = og.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=len(ids) + TOKENS)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        assert without_end(generator.get_sequence(0)[len(ids) :].tolist()) == expected


def test_the_tokenizer_of_onnxruntime_genai_agrees(small_bundle: Path) -> None:
    ours = AtomSession.from_pretrained(small_bundle).tokenizer
    theirs = og.Tokenizer(og.Model(str(small_bundle)))
    for text in STRINGS:
        assert theirs.encode(text).tolist() == ours.encode(text), text


@pytest.mark.skipif(shutil.which("node") is None, reason="transformers.js needs Node")
@pytest.mark.parametrize(
    ("fixture", "dtype"), [("small_bundle", "fp32"), ("small_int8_bundle", "q8")]
)
def test_transformers_js(
    fixture: str, dtype: str, transformers_js: Path, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(fixture)
    asked: dict[str, Any] = {
        "models": str(bundle.parent),
        "bundle": bundle.name,
        "dtype": dtype,
        "prompts": PROMPTS,
        "tokens": TOKENS,
        "strings": STRINGS,
    }
    result = subprocess.run(
        ["node", "generate.mjs"],
        cwd=transformers_js.parent,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert [without_end(reply) for reply in answer["replies"]] == expected_tokens(bundle)
    encode = AtomSession.from_pretrained(bundle).tokenizer.encode
    assert answer["ids"] == [encode(text) for text in STRINGS]


@pytest.mark.parametrize("fixture", ["small_bundle", "small_int8_bundle"])
def test_the_documented_thirty_lines(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(fixture)
    text = (ROOT / "docs" / "plain-onnxruntime.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    script = tmp_path / "plain.py"
    script.write_text(code, encoding="utf-8")
    decode = AtomSession.from_pretrained(bundle).tokenizer.decode
    result = subprocess.run(
        [sys.executable, "-W", "error", script, bundle, PROMPTS[0], str(TOKENS)],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode() == decode(expected_tokens(bundle)[0]) + "\n"
