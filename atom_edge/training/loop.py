"""Pretraining: from a recipe to a snapshot.

One process a device; several are started by `torchrun` or `accelerate launch` and joined by
accelerate. Everything random is a function of the recipe's seed and the step, so that a run that
was killed continues to exactly the weights that it would have reached.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from atom_edge.errors import TrainingError
from atom_edge.reference import checkpoint_path
from atom_edge.training import curriculum, log
from atom_edge.training.cache import TokenCache, Tokens, build_caches
from atom_edge.training.loss import NextTokenLoss
from atom_edge.training.models import Teacher, open_teacher, trained_model
from atom_edge.training.optimizer import make_optimizers, rate_factor
from atom_edge.training.progress import tokenizing, training
from atom_edge.training.recipe import Recipe
from atom_edge.training.state import has_checkpoint, load_newest, save_checkpoint, save_snapshot


def pretrain(
    recipe: Recipe,
    output: Path,
    data: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    initial: Path | None = None,
    teacher: Path | None = None,
    stop_after: int | None = None,
    fast: bool = False,
    console: Console | None = None,
) -> Path:
    """Train by `recipe` and return the folder of the snapshot.

    The snapshot is written anew with every checkpoint: a run that is lost leaves its last one.

    Args:
        recipe: what decides the weights.
        output: folder of the run: `log.jsonl`, `loss.png`, `checkpoints/`, `snapshot/`.
        data: folder below which the recipe's shards lie.
        resume: continue from the newest checkpoint in `output`.
        cache: folder of the tokenized text; `output/cache` when None.
        initial: folder of a snapshot to begin from; random weights when None.
        teacher: folder of a snapshot whose distributions the model learns, by the recipe's
            `teacher_share`.
        stop_after: end, with a checkpoint, once so many steps of the run are done.
        fast: compile the model and compute in bfloat16 on a CPU too, as always on a GPU; it needs
            a C++ compiler, and pays where the CPU has bfloat16 instructions.
        console: where progress is shown; stderr when None.

    Raises:
        TrainingError: for a recipe, source or teacher that cannot be used, an output that holds
            another run, nothing to resume, or `fast` without a compiler.
    """
    tokenizer = Path(recipe.tokenizer) if recipe.tokenizer else checkpoint_path()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    console = console or Console(stderr=True, quiet=not accelerator.is_main_process)
    if not resume and has_checkpoint(output / "checkpoints"):
        raise TrainingError(f"{output} holds a run already. Add --resume, or name another folder.")
    if fast and accelerator.device.type == "cpu":
        _need_compiler()

    taught_by = open_teacher(recipe, teacher, tokenizer)
    counts = curriculum.plan(recipe)
    with accelerator.main_process_first(), tokenizing(console) as report:
        planned = (counts.sum(axis=0) * recipe.context).tolist()
        place = cache or output / "cache"
        tokenizer_file = tokenizer / "tokenizer.json"
        caches = build_caches(recipe, planned, tokenizer_file, data, place, report)

    run = Run(recipe, accelerator, output, tokenizer, initial, taught_by, fast)
    first = run.load() if resume else 0
    last = min(recipe.steps, stop_after or recipe.steps)
    batches = curriculum.batches(recipe, counts, caches, first)
    with training(console, first, recipe.steps) as show:
        run.train(batches, caches, range(first, last), show)
    if last == recipe.steps and accelerator.is_main_process:
        log.plot(output / "log.jsonl", output / "loss.png")
    accelerator.end_training()
    return output / "snapshot"


def _need_compiler() -> None:
    # As torch.compile chooses it for a CPU.
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise TrainingError(
            f"--fast needs a C++ compiler, and there is no {compiler} here. Install it, name "
            "another in CXX, or leave --fast out."
        )


def windows_that_suit(device: str, logits: int) -> int:
    """How many windows a device holds at once where the recipe does not say.

    The logits of a step and their gradients are most of its memory: on a CPU about 2 GB in all.

    Args:
        device: "cuda" or "cpu".
        logits: of one window.
    """
    return 512 if device == "cuda" else max(1, 2**26 // logits)


class Run:
    """Model and optimizers of a run, on this process's device."""

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        output: Path,
        tokenizer: Path,
        initial: Path | None,
        teacher: Teacher | None,
        fast: bool,
    ) -> None:
        self.recipe = recipe
        self.accelerator = accelerator
        self.output = output
        self._tokenizer = tokenizer
        self.device = accelerator.device
        torch.manual_seed(recipe.seed)
        self.model = trained_model(recipe, initial).to(self.device).train()
        self.optimizers = make_optimizers(self.model, recipe.optimizer)
        self._base_rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self._clipped = [p for p in self.model.parameters() if p.requires_grad]
        self._on_gpu = self.device.type == "cuda"
        logits = recipe.context * self.model.config.vocab_size
        self._device_windows = recipe.device_windows or windows_that_suit(
            self.device.type, logits if teacher is None else 2 * logits
        )
        self._fast = fast or self._on_gpu
        self._teacher = teacher.fingerprint if teacher else ""
        taught_by = teacher.model.to(self.device) if teacher else None
        loss = NextTokenLoss(self.model, taught_by, recipe.teacher_share)
        if self._fast:
            torch.set_float32_matmul_precision("high")
            # A step's many small kernels wait for Python unless a graph starts them all at once.
            alone = self._on_gpu and accelerator.num_processes == 1
            loss.compile(mode="reduce-overhead" if alone else "default")
        self._loss = accelerator.prepare_model(loss)
        # Validation has batches of many sizes: compiling for each costs more than it gains.
        self._uncompiled = NextTokenLoss(self.model)

    def load(self) -> int:
        """Continue from the newest checkpoint; return the number of steps done."""
        state = load_newest(self.output / "checkpoints", self.device)
        if state["recipe"] != self._description():
            raise TrainingError(
                f"The run in {self.output} was started with another recipe. Name another folder."
            )
        if state.get("teacher", "") != self._teacher:
            raise TrainingError(
                f"The run in {self.output} was started with another teacher. Name that one, or "
                "another folder."
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.accelerator.is_main_process:
            log.forget_after(self.output / "log.jsonl", state["step"])
        return int(state["step"])

    def train(
        self, batches: Iterator[Tokens], caches: list[TokenCache], steps: range, show: Any
    ) -> None:
        """Take the optimizer `steps`, with log, validation and checkpoints on the way."""
        recipe = self.recipe
        losses = torch.zeros((), device=self.device)
        since = time.monotonic()
        pending = 0
        for step in steps:
            losses += self._step(next(batches), step)
            done = step + 1
            pending += 1
            if done % recipe.log_every == 0 or done == steps.stop:
                mean = self.accelerator.reduce(losses, "mean").item() / pending
                speed = pending * self._tokens(1) / (time.monotonic() - since)
                if not np.isfinite(mean):
                    raise TrainingError(
                        f"The loss is not finite at step {done}. Lower the learning rates."
                    )
                rate = rate_factor(step, recipe.steps, recipe.optimizer)
                self._log(step=done, loss=mean, rate=rate, tokens_per_second=round(speed))
                show(done, mean, speed)
                losses.zero_()
                since, pending = time.monotonic(), 0
            if done % recipe.validation_every == 0 or done == recipe.steps:
                self._log(step=done, validation=self._validate(caches))
                since = time.monotonic()
            if done % recipe.checkpoint_every == 0 or done == steps.stop:
                self._save(done)
                since = time.monotonic()

    def _step(self, windows: Tokens, step: int) -> Tensor:
        """One optimizer step; the mean loss of this process's part of `windows`."""
        factor = rate_factor(step, self.recipe.steps, self.recipe.optimizer)
        for optimizer, rate in zip(self.optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        here = windows[self.accelerator.process_index :: self.accelerator.num_processes]
        parts = np.array_split(here, -(-len(here) // self._device_windows))
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self._loss):
                loss = self._forward(part, self._loss) * (len(part) / len(here))
                loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self._clipped, self.recipe.optimizer.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return total

    def _forward(self, windows: Tokens, loss: nn.Module) -> Tensor:
        host = torch.from_numpy(windows.astype(np.int64))
        if self._on_gpu:
            host = host.pin_memory()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._fast):
            mean: Tensor = loss(host.to(self.device, non_blocking=True))
        return mean

    @torch.no_grad()
    def _validate(self, caches: list[TokenCache]) -> dict[str, float]:
        """Mean loss over the held-out windows of each source."""
        result = {}
        for source, cache in zip(self.recipe.sources, caches, strict=True):
            parts = curriculum.validation_batches(
                cache.validation, self.recipe.context, self._device_windows
            )
            scores = [(self._forward(part, self._uncompiled), len(part)) for part in parts]
            windows = sum(count for _, count in scores)
            if windows:
                result[source.name] = sum(s.item() * n for s, n in scores) / windows
        return result

    def _log(self, step: int, **record: Any) -> None:
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            log.append(self.output / "log.jsonl", step=step, tokens=self._tokens(step), **record)

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            state = {
                "recipe": self._description(),
                "teacher": self._teacher,
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            }
            save_checkpoint(self.output / "checkpoints", step, state)
            save_snapshot(self.model, self._tokenizer, self.output / "snapshot")

    def _tokens(self, steps: int) -> int:
        return steps * self.recipe.batch_windows * self.recipe.context

    def _description(self) -> str:
        return json.dumps(dataclasses.asdict(self.recipe), sort_keys=True)
