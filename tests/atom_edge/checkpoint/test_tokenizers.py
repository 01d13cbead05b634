"""The tokenizer of a snapshot is transformers' own, whatever files say what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from atom_edge.checkpoint.text import open_tokenizer
from atom_edge.errors import TokenizerError
from atom_edge.exporters.export import write_tokenizer
from atom_edge.tokenizer import Tokenizer as OurTokenizer

TEXT = [
    "The water cycle is the way in which water moves between the sea, the air and the land.",
    "There are 12 apples in each of 7 baskets, so there are 84 apples; half of them are red.",
] * 20
ROWS = 512
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s*[\r\n]+|\s+(?!\S)|\s+"
NASTY = [
    "",
    " ",
    "84 apples",
    "  two  spaces \t\n\n\r\n",
    "I'll we'RE don't",
    "naïve é e\u0301 ﬁ ß ٣",
    "👩‍👩‍👧 🇺🇳 水循环",
    "a\u00a0b\u200bc\ufeffd\0",
    "▁under ▁ line",
    "<s>one</s> <|im_start|>user\nhi<|im_end|> <|bos|><|eos|> <|extra|>",
]


def byte_level(special: tuple[str, ...], ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*special, *pieces], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] in special
    ]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def beginning_with(tokenizer: Tokenizer, text: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[text, "$A"], special_tokens=[(text, tokenizer.token_to_id(text))]
    )
    return tokenizer


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def post_processor(folder: Path) -> None:
    tokenizer = byte_level(("<|pad|>", "<|bos|>", "<|eos|>"))
    beginning_with(tokenizer, "<|bos|>").save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"bos_token": "<|bos|>", "tokenizer_class": FAST})


def beginning_of_id_0(folder: Path) -> None:
    tokenizer = byte_level(("<|bos|>", "<|eos|>"))
    beginning_with(tokenizer, "<|bos|>").save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"bos_token": "<|bos|>", "tokenizer_class": FAST})


def added_tokens_json(folder: Path) -> None:
    byte_level(("<|endoftext|>",)).model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    size = max(vocabulary.values()) + 1
    write(folder, "added_tokens.json", {"<|im_start|>": size, "<|im_end|>": size + 1})
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
    )


def merges_of_qwen(folder: Path) -> None:
    byte_level(("<|endoftext|>",)).model.save(str(folder))
    write(
        folder,
        "tokenizer_config.json",
        {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|endoftext|>"},
    )


def added_tokens_decoder(folder: Path) -> None:
    tokenizer = byte_level(("<|bos|>", "<|eos|>"))
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    listed = {
        str(size + place): {"content": text, "special": special, "lstrip": strips}
        for place, (text, special, strips) in enumerate(
            [("<|im_start|>", True, False), ("apples", False, True), ("<|im_end|>", True, False)]
        )
    }
    write(
        folder,
        "tokenizer_config.json",
        {"tokenizer_class": FAST, "added_tokens_decoder": listed, "eos_token": "<|im_end|>"},
    )


def special_tokens_map(folder: Path) -> None:
    byte_level(("<|pad|>", "<|bos|>", "<|eos|>")).save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": FAST})
    write(folder, "special_tokens_map.json", {"bos_token": "<|bos|>", "eos_token": "<|eos|>"})


def llama(folder: Path) -> None:
    sentencepiece().save(str(folder / "tokenizer.json"))
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
    )


def llama_without_beginning(folder: Path) -> None:
    llama(folder)
    beginning_with(sentencepiece(), "<s>").save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder, "tokenizer_config.json", {**settings, "add_bos_token": False})


def metaspace(folder: Path) -> None:
    tokenizer = sentencepiece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    beginning_with(tokenizer, "<s>").save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": FAST, "bos_token": "<s>"})


def llama_3(folder: Path) -> None:
    tokenizer = byte_level(("<|bos|>", "<|eos|>"), ignore_merges=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=["<|bos|>", "$A"], special_tokens=[("<|bos|>", 0)]
            ),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": FAST, "bos_token": "<|bos|>"})


def gpt_neox(folder: Path) -> None:
    tokenizer = byte_level(("<|endoftext|>", "<|padding|>"))
    tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in (4, 3, 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        folder,
        "tokenizer_config.json",
        {"tokenizer_class": "GPTNeoXTokenizer", "add_bos_token": True},
    )


FAST = "PreTrainedTokenizerFast"
KINDS = [
    post_processor,
    beginning_of_id_0,
    added_tokens_json,
    merges_of_qwen,
    added_tokens_decoder,
    special_tokens_map,
    llama,
    llama_without_beginning,
    metaspace,
    llama_3,
    gpt_neox,
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp(request.param.__name__)
    request.param(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(folder)
    if json.loads((folder / "tokenizer_config.json").read_text()).get("add_bos_token"):
        loaded.add_bos_token = True  # version 5 drops the setting beside a tokenizer.json
    return loaded


@pytest.fixture(scope="module")
def ours(folder: Path) -> OurTokenizer:
    return OurTokenizer.from_file(open_tokenizer(folder, ROWS).file)


@pytest.mark.parametrize("text", NASTY)
def test_ids_of_nasty_text(theirs: PreTrainedTokenizerFast, ours: OurTokenizer, text: str) -> None:
    for added in (True, False):
        ids = theirs(text, add_special_tokens=added)["input_ids"]
        assert ours.encode(text, add_special_tokens=added) == ids


TEXTS = st.lists(
    st.sampled_from([*NASTY, "apples", " ", "12", "<|eos|>", "</s>", "\n"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
).map("".join)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(text=TEXTS)
def test_ids_of_any_text(theirs: PreTrainedTokenizerFast, ours: OurTokenizer, text: str) -> None:
    assert ours.encode(text, add_special_tokens=True) == theirs(text)["input_ids"]


def test_special_tokens_keep_their_roles(folder: Path, theirs: PreTrainedTokenizerFast) -> None:
    tokenizer = open_tokenizer(folder, ROWS)
    for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
        assert tokenizer.special_tokens.get(role) == getattr(theirs, role)
        assert tokenizer.config.get(role) == getattr(theirs, role)


@pytest.mark.parametrize("text", NASTY)
def test_transformers_reads_a_bundle_as_it_reads_the_snapshot(
    folder: Path, theirs: PreTrainedTokenizerFast, tmp_path: Path, text: str
) -> None:
    tokenizer = open_tokenizer(folder, ROWS)
    write_tokenizer(tmp_path, tokenizer.file, tokenizer.config, 256)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == theirs(text)["input_ids"]
    assert (again.bos_token_id, again.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


def test_a_beginning_token_is_added_where_the_config_asks_for_it(tmp_path: Path) -> None:
    beginning_of_id_0(tmp_path)
    byte_level(("<|bos|>", "<|eos|>")).save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": FAST, "bos_token": "<|bos|>", "add_bos_token": True}
    write(tmp_path, "tokenizer_config.json", config)
    tokenizer = OurTokenizer.from_file(open_tokenizer(tmp_path, ROWS).file)
    ids = tokenizer.encode("The")
    assert tokenizer.encode("The", add_special_tokens=True) == [0, *ids]
    assert tokenizer.encode("", add_special_tokens=True) == [0]


def test_an_added_token_of_another_id_is_an_error(tmp_path: Path) -> None:
    special_tokens_map(tmp_path)
    write(tmp_path, "added_tokens.json", {"<|eos|>": 7})
    with pytest.raises(TokenizerError, match=r"'<\|eos\|>' the id 7, .* gives it 2"):
        open_tokenizer(tmp_path, ROWS)


def test_an_unknown_class_of_merges_is_an_error(tmp_path: Path) -> None:
    merges_of_qwen(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "NobodysTokenizer"})
    with pytest.raises(TokenizerError, match="NobodysTokenizer"):
        open_tokenizer(tmp_path, ROWS)


def test_a_class_that_is_no_name_is_an_error(tmp_path: Path) -> None:
    special_tokens_map(tmp_path)
    for wrong in (7, ["LlamaTokenizer"], {}):
        write(tmp_path, "tokenizer_config.json", {"tokenizer_class": wrong})
        with pytest.raises(TokenizerError, match="tokenizer_class"):
            open_tokenizer(tmp_path, ROWS)
