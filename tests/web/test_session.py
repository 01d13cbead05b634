"""A session in a browser gives what a session of Python gives, of the same bundle."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pytest

from atom_edge import AtomSession
from atom_edge.errors import GenerationError

from .conftest import Ask, Site

PROMPTS = ("The water cycle is", "Once upon a time, there was a", "2 + 2 =", "Ünïcödé 水 👍🏽", "")
STRINGS = (
    " leading and trailing ",
    "two  spaces,   three\ttab\n\nlines\r\n",
    "I'll we're don't 'S 'LL",
    "123456789 3.14 1,000,000 ٣",
    "naïve café ß ﬁ e\u0301 and é",
    "水循环は、Ελληνικά, русский, עברית, हिन्दी",
    "👨‍👩‍👧‍👦 🇺🇳 a\u00a0b\u200bc\ufeffd\x00",
    "<|eos|> is special, <|nothing|> is not",
)
GREEDY = {"temperature": 0, "repetition_penalty": 1, "max_new_tokens": 24}
SAMPLED: tuple[dict[str, Any], ...] = (
    {"temperature": 1, "top_p": 1, "seed": 0},
    {"temperature": 0.7, "top_k": 40, "top_p": 1, "seed": 2**63 - 1},
    {"temperature": 1.3, "top_p": 0.8, "seed": 3},
    {"temperature": 1, "top_p": 1, "min_p": 0.3, "seed": 4},
    {"temperature": 0.9, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "seed": 5},
    {"temperature": 0, "repetition_penalty": 1.7},
    {"temperature": 0.8, "repetition_penalty": 0.8, "seed": 7},
    {"seed": 8},
)
GENERATE = """
const [bundle, requests] = values;
const session = await open(bundle);
const replies = [];
for (const [prompt, { seed, ...options }] of requests) {
  const { prompt_tps, generation_tps, logprobs, ...reply } = await session.generate(prompt, {
    ...options, ...(seed !== undefined && { seed: BigInt(seed) }),
  });
  replies.push(reply);
}
return replies;
"""


def expected(session: AtomSession, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    reply = session.generate(prompt, **options)
    return {
        "text": reply.text,
        "token_ids": list(reply.token_ids),
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "truncated_tokens": reply.truncated_tokens,
        "generation_tokens": reply.generation_tokens,
    }


@pytest.mark.parametrize("bundle", ["float", "int8"])
def test_replies_are_those_of_python(bundle: str, ask: Ask, site: Site) -> None:
    session = AtomSession.from_pretrained(site.bundles / bundle)
    requests: list[tuple[str, dict[str, Any]]] = [(prompt, GREEDY) for prompt in PROMPTS]
    requests += [(PROMPTS[0], {"max_new_tokens": 24, **options}) for options in SAMPLED]
    text = session.generate(PROMPTS[0], **GREEDY).text
    requests += [
        (PROMPTS[0], {**GREEDY, "stop": [text[5:8], text[6:12], "never"]}),
        ("water " * 300, {**GREEDY, "max_new_tokens": 3}),
        ("water " * 100, {**GREEDY, "max_new_tokens": 1000}),
    ]
    written = [(p, {**o, **({"seed": str(o["seed"])} if "seed" in o else {})}) for p, o in requests]
    replies = ask(GENERATE, bundle, written)
    assert replies == [expected(session, *request) for request in requests]
    assert {reply["finish_reason"] for reply in replies} == {"stop", "length"}


def test_the_tokenizer_is_that_of_python(ask: Ask, site: Site) -> None:
    seed = random.randrange(2**32)
    source = random.Random(seed)
    # Of characters that came to Unicode lately, browsers and `tokenizers` may know different ones.
    known = [c for c in map(chr, range(0x20, 0xD000)) if unicodedata.category(c) != "Cn"]
    kinds = "aé水👍 \n\t'0.<|>" + "".join(source.choices(known, k=40))
    random_texts = ["".join(source.choices(kinds, k=source.randrange(40))) for _ in range(200)]
    texts = [*PROMPTS, *STRINGS, *random_texts]
    tokenizer = AtomSession.from_pretrained(site.bundles / "float").tokenizer
    ids = [tokenizer.encode(text) for text in texts]
    # Cut anywhere: incomplete characters too.
    ids += [list(source.sample(range(4096), 20)) for _ in range(50)]
    program = """
    const [texts, ids] = values;
    const { tokenizer } = await open("float");
    return [texts.map((text) => tokenizer.encode(text)), ids.map((each) => tokenizer.decode(each))];
    """
    encoded, decoded = ask(program, texts, ids)
    assert encoded == ids[: len(texts)], f"seed {seed}"
    assert decoded == [tokenizer.decode(each) for each in ids], f"seed {seed}"


@pytest.mark.parametrize("alternatives", [0, 3])
def test_log_probabilities_are_those_of_python(alternatives: int, ask: Ask, site: Site) -> None:
    options = {**GREEDY, "logprobs": alternatives}
    program = 'return (await (await open("float")).generate("Water", values[0])).logprobs;'
    reply = AtomSession.from_pretrained(site.bundles / "float").generate("Water", **options)
    assert reply.logprobs is not None
    for found, rated in zip(ask(program, options), reply.logprobs, strict=True):
        assert found["token_id"] == rated.token_id
        assert found["logprob"] == pytest.approx(rated.logprob, abs=1e-4)
        assert [token for token, _ in found["top"]] == [token for token, _ in rated.top]
        assert [p for _, p in found["top"]] == pytest.approx([p for _, p in rated.top], abs=1e-4)


@pytest.mark.parametrize("how", ["AtomSession.open", "openInWorker"])
def test_a_reply_comes_in_pieces_and_can_be_cancelled(how: str, ask: Ask, site: Site) -> None:
    program = f"""
    const session = await open("float", {how});
    const pieces = [];
    for await (const piece of session.stream("Water", values[0])) pieces.push(piece);
    const controller = new AbortController();
    const cut = [];
    const options = {{ ...values[0], max_new_tokens: 100, signal: controller.signal }};
    for await (const piece of session.stream("Water", options)) {{
      cut.push(piece);
      if (cut.length === 3) controller.abort();
    }}
    const early = await session.generate("Water", {{ ...values[0], signal: AbortSignal.abort() }});
    for await (const piece of session.stream("Water", values[0])) break;
    const both = ["Water", "The"].map((prompt) => session.generate(prompt, values[0]));
    const texts = (await Promise.all(both)).map((reply) => reply.text);
    return {{ pieces, cut, early, texts }};
    """
    session = AtomSession.from_pretrained(site.bundles / "float")
    found = ask(program, GREEDY)
    pieces = list(session.stream("Water", **GREEDY))
    keys = ("text", "token_id", "generation_tokens", "finish_reason")
    assert [[piece[key] for key in keys] for piece in found["pieces"]] == [
        [getattr(piece, key) for key in keys] for piece in pieces
    ]
    assert [piece["finish_reason"] for piece in found["cut"][:3]] == [None] * 3
    assert found["cut"][3]["finish_reason"] == "cancelled"
    assert len(found["cut"]) == 4
    assert found["early"]["finish_reason"] == "cancelled"
    assert found["early"]["generation_tokens"] == 1
    assert found["texts"] == [session.generate(p, **GREEDY).text for p in ("Water", "The")]


WRONG: tuple[dict[str, Any], ...] = (
    {"top_k": -1},
    {"max_new_tokens": 1.5},
    {"top_p": 0},
    {"temperature": 1e-12},
    {"min_p": 2},
    {"repetition_penalty": 0},
)


def test_wrong_requests_are_refused_in_the_words_of_python(ask: Ask, site: Site) -> None:
    program = """
    const [local, worker] = [await open("float"), await open("float", openInWorker)];
    const messages = [];
    for (const wrong of values[0]) messages.push(await error(() => local.generate("a", wrong)));
    const others = [
      await error(() => local.generate("a", { seed: -1 })),
      await error(() => local.generate("a", { stop: [""] })),
      await error(() => local.generate("a", { max_tokens: 3 })),
      await error(() => local.generate(null)),
      await error(() => local.generate([1, 5000])),
      await error(() => local.generate("\\ud800")),
      await error(() => worker.generate("a", { top_k: -1 })),
    ];
    return [messages, others];
    """
    messages, others = ask(program, WRONG)
    session = AtomSession.from_pretrained(site.bundles / "float")
    for wrong, message in zip(WRONG, messages, strict=True):
        with pytest.raises(GenerationError) as refused:
            session.generate("a", **wrong)
        assert message == f"GenerationError: {refused.value}"
    for message, start in zip(
        others,
        (
            "GenerationError: seed is -1; it must be an integer",
            "GenerationError: stop is ",
            'GenerationError: There is no option "max_tokens". The options are max_new_tokens,',
            "GenerationError: The prompt is null;",
            "GenerationError: The prompt holds the token id 5000",
            "TokenizerError: The text is not valid Unicode",
            "GenerationError: top_k is -1; it must be an integer, 0 (all) or above.",
        ),
        strict=True,
    ):
        assert message.startswith(start), message


def test_a_damaged_bundle_is_refused(ask: Ask, site: Site) -> None:
    for name in ("changed", "native", "newer"):
        (site.bundles / name).mkdir(exist_ok=True)
        for file in (site.bundles / "int8").rglob("*.*"):
            place = site.bundles / name / file.relative_to(site.bundles / "int8")
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(file.read_bytes())
    changed = site.bundles / "changed" / "tokenizer.json"
    changed.write_bytes(changed.read_bytes().replace(b"water", b"fires"))
    for name, old, new in (
        ("native", '"model":"onnx', '"native":"onnx'),
        ("newer", '"format_version":1', '"format_version":2'),
    ):
        manifest = site.bundles / name / "manifest.json"
        text = manifest.read_text().replace('": ', '":')
        assert old in text
        manifest.write_text(text.replace(old, new))
    program = """
    return Promise.all(["changed", "native", "newer", "nowhere"].map((name) =>
      error(() => AtomSession.open(`/bundles/${name}`, { onnxruntime }))));
    """
    for message, part in zip(
        ask(program),
        (
            "tokenizer.json is not the file that its manifest lists",
            "atom-edge export --target web",
            "format_version: 2; this release of atom-edge reads 1",
            "manifest.json cannot be fetched: HTTP status 404",
        ),
        strict=True,
    ):
        assert part in message
