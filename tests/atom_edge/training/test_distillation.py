"""Learning from a teacher: the loss, whole runs, and teachers that do not fit."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from atom_edge.cli import app
from atom_edge.config import AtomConfig
from atom_edge.errors import TrainingError
from atom_edge.modeling import AtomForCausalLM
from atom_edge.reference import checkpoint_path
from atom_edge.training import log
from atom_edge.training.loop import pretrain
from atom_edge.training.loss import NextTokenLoss, distillation_loss
from atom_edge.training.recipe import Recipe, load_recipe
from atom_edge.training.state import load_newest, save_snapshot

RECIPE = """
tokens = 1536
teacher_share = 0.7
batch_windows = 8
device_windows = 5
validation_tokens = 300
checkpoint_every = 2
log_every = 1
model = { hidden_size = 64, intermediate_size = 64, num_hidden_layers = 1, head_dim = 32, \
num_attention_heads = 2, max_position_embeddings = 32 }
optimizer = { warmup_steps = 2 }

[[sources]]
name = "everyday"
generator = "everyday"
max_tokens = 4000
start = 1
end = 1
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and a teacher with twice the width and context of its model."""
    folder = tmp_path_factory.mktemp("distillation")
    (folder / "recipe.toml").write_text(RECIPE)
    save_snapshot(small_teacher(folder, seed=1), checkpoint_path(), folder / "teacher")
    return folder


def small_teacher(work: Path, seed: int) -> AtomForCausalLM:
    """Random weights, but with decided opinions."""
    teacher = small_model(work, seed, hidden_size=128, max_position_embeddings=64)
    teacher.lm_head.weight.data *= 10
    return teacher


def small_model(work: Path, seed: int, **changes: int) -> AtomForCausalLM:
    torch.manual_seed(seed)
    return AtomForCausalLM(AtomConfig(**load_recipe(work / "recipe.toml").model | changes))


def distil(work: Path, output: Path, *options: str) -> list[float]:
    """Run the recipe with its teacher; the losses of its steps."""
    arguments = ["pretrain", str(work / "recipe.toml"), "--teacher", str(work / "teacher")]
    arguments += ["--cache", str(work / "cache"), "-o", str(output)]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, (result.output, result.exception)
    return [r["loss"] for r in log.read_log(output / "log.jsonl") if "loss" in r]


def test_the_loss_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    logits, taught = torch.randn(2, 12, 40, dtype=torch.float64) * 3
    logits.requires_grad_()
    following = torch.randint(40, (12,))
    share = 0.3
    loss = distillation_loss(logits, taught, following, share)
    (gradient,) = torch.autograd.grad(loss, logits)
    student, teacher = logits.detach().softmax(-1), taught.softmax(-1)
    divergence = (teacher * (teacher / student).log()).sum(-1).mean()
    cross_entropy = -student[torch.arange(12), following].log().mean()
    assert loss.item() == pytest.approx((share * divergence + (1 - share) * cross_entropy).item())
    target = share * teacher + (1 - share) * F.one_hot(following, 40)
    assert torch.allclose(gradient, (student - target) / 12)


def test_a_student_with_its_teachers_weights_has_nothing_to_learn_from_it(work: Path) -> None:
    model = small_model(work, seed=0).train()
    teacher = small_model(work, seed=0).eval().requires_grad_(False)
    windows = torch.randint(4096, (3, 33))
    loss = NextTokenLoss(model, teacher, teacher_share=1.0)(windows)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad.abs().max() < 1e-6 for p in model.parameters() if p.grad is not None)
    assert not any(p.requires_grad for p in teacher.parameters())
    half = NextTokenLoss(model, teacher, teacher_share=0.5)(windows)
    assert half.item() == pytest.approx(NextTokenLoss(model)(windows).item() / 2, rel=1e-5)


def test_a_distilled_run_comes_nearer_to_its_teacher_than_one_of_text_alone(
    work: Path, tmp_path: Path
) -> None:
    distil(work, tmp_path / "taught")
    alone = dataclasses.replace(load_recipe(work / "recipe.toml"), teacher_share=0.0)
    pretrain(alone, tmp_path / "alone", work, cache=work / "cache")
    teacher, taught, untaught = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (
            *(work / "teacher", tmp_path / "taught" / "snapshot"),
            tmp_path / "alone" / "snapshot",
        )
    )
    held_out = next((work / "cache").glob("*/validation.bin"))
    tokens = torch.from_numpy(np.fromfile(held_out, dtype=np.uint16).astype(np.int64))
    windows = tokens[: len(tokens) // 33 * 33].view(-1, 33)
    after, after_text, before = (
        NextTokenLoss(model.eval(), teacher, teacher_share=1.0)(windows).item()
        for model in (taught, untaught, small_model(work, seed=0))
    )
    assert 0 < after < min(before, after_text) - 0.1


def test_a_resumed_run_equals_one_never_killed(work: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    losses = distil(work, whole)
    distil(work, broken, "--stop-after", "3")
    assert distil(work, broken, "--resume") == losses
    device = torch.device("cpu")
    first, second = (load_newest(f / "checkpoints", device)["model"] for f in (whole, broken))
    assert not any("teacher" in name for name in first)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    other = tmp_path / "other"
    save_snapshot(small_teacher(work, seed=2), checkpoint_path(), other)
    recipe = load_recipe(work / "recipe.toml")
    with pytest.raises(TrainingError, match="another teacher"):
        pretrain(recipe, broken, work, resume=True, cache=work / "cache", teacher=other)


def refuse(recipe: Recipe, work: Path, teacher: Path | None, message: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        pretrain(recipe, work / "refused", work, cache=work / "cache", teacher=teacher)
    assert not (work / "refused").exists()


def test_a_teacher_that_does_not_fit_is_refused(work: Path, tmp_path: Path) -> None:
    recipe = load_recipe(work / "recipe.toml")
    refuse(recipe, work, None, "a teacher 0.7 of the loss. Name its snapshot with --teacher")
    without = dataclasses.replace(recipe, teacher_share=0.0)
    refuse(without, work, work / "teacher", "The recipe has no teacher")
    longer = dataclasses.replace(recipe, model=recipe.model | {"max_position_embeddings": 128})
    refuse(longer, work, work / "teacher", "a context of 64 tokens")
    larger = dataclasses.replace(recipe, model=recipe.model | {"vocab_size": 5000})
    refuse(larger, work, work / "teacher", "has 4096 logits and the recipe's model 5000")
    other = tmp_path / "other-tokens"
    shutil.copytree(work / "teacher", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"][-2:] = reversed(tokenizer["model"]["merges"][-2:])
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    refuse(recipe, work, other, "another tokenizer")


def test_a_share_of_the_teacher_beyond_the_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("0.7", "7"))
    with pytest.raises(TrainingError, match="teacher_share is 7; make it 0 to 1"):
        load_recipe(tmp_path / "recipe.toml")


def test_teacher_and_student_of_the_shipped_recipes_fit() -> None:
    student, teacher = (
        AtomConfig(**load_recipe(name).model) for name in ("atom-distilled", "atom-teacher")
    )
    assert student.vocab_size == teacher.vocab_size
    assert student.max_position_embeddings == teacher.max_position_embeddings
