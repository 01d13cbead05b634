"""The test of the test: graphs that are wrong in one place. Validation must refuse each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atom_edge.checkpoint import Snapshot, open_snapshot
from atom_edge.exporters.export import open_reference
from atom_edge.exporters.reference import Reference
from atom_edge.exporters.report import Limits
from atom_edge.exporters.validate import SAMPLES, validate
from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.engines.portable import PortableEngine

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
CONTEXT = 128


class Graph:
    """The PyTorch model called like the portable graph, with a fault put in by a subclass."""

    def __init__(self, model: AtomForCausalLM) -> None:
        self.model = model
        self.vocab_size = int(model.config.vocab_size)
        config = model.config
        self._shape = (config.num_key_value_heads, config.head_dim)
        self._layers = config.num_hidden_layers

    def empty_cache(self, batch_size: int) -> list[Array]:
        heads, size = self._shape
        return [np.zeros((batch_size, heads, 0, size), np.float32)] * (2 * self._layers)

    @torch.no_grad()
    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: list[Array], position_ids: Ids
    ) -> tuple[Array, list[Array]]:
        from transformers import DynamicCache

        past = DynamicCache()
        for layer in range(self._layers):
            key, value = (torch.from_numpy(part) for part in cache[2 * layer : 2 * layer + 2])
            past.update(key, value, layer)
        logits = self.model(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            position_ids=torch.from_numpy(position_ids),
            past_key_values=past,
            use_cache=True,
        ).logits.numpy()
        present = []
        for layer in past.layers:
            present += [layer.keys.numpy(), layer.values.numpy()]
        return logits, present


Run = Callable[[Ids, Ids, list[Array], Ids], tuple[Array, list[Array]]]
Fault = Callable[[AtomForCausalLM, Run], Run]


def in_logits(change: Callable[[Array, int], None]) -> Fault:
    """`change(logits, past)` edits the logits `[B, T, V]` in place."""

    def fault(_: AtomForCausalLM, run: Run) -> Run:
        def wrong(
            ids: Ids, mask: Ids, cache: list[Array], positions: Ids
        ) -> tuple[Array, list[Array]]:
            logits, present = run(ids, mask, cache, positions)
            change(logits, cache[0].shape[2])
            return logits, present

        return wrong

    return fault


def in_inputs(change: Callable[[Ids, Ids, Ids], tuple[Ids, Ids, Ids]]) -> Fault:
    """`change(ids, mask, positions)` gives what the model gets instead."""

    def fault(_: AtomForCausalLM, run: Run) -> Run:
        def wrong(
            ids: Ids, mask: Ids, cache: list[Array], positions: Ids
        ) -> tuple[Array, list[Array]]:
            ids, mask, positions = change(ids, mask, positions)
            return run(ids, mask, cache, positions)

        return wrong

    return fault


def in_cache(change: Callable[[list[Array]], list[Array]]) -> Fault:
    """`change(present)` gives the cache that is returned instead."""

    def fault(_: AtomForCausalLM, run: Run) -> Run:
        def wrong(
            ids: Ids, mask: Ids, cache: list[Array], positions: Ids
        ) -> tuple[Array, list[Array]]:
            logits, present = run(ids, mask, cache, positions)
            return logits, change([part.copy() for part in present])

        return wrong

    return fault


def in_weights(change: Callable[[AtomForCausalLM], None]) -> Fault:
    """`change(model)` edits the weights."""

    def fault(model: AtomForCausalLM, run: Run) -> Run:
        with torch.no_grad():
            change(model)
        return run

    return fault


def nan_from(position: int) -> Callable[[Array, int], None]:
    def change(logits: Array, past: int) -> None:
        logits[:, max(0, position - past) :] = np.nan

    return change


def nan_at(position: int, token: int) -> Callable[[Array, int], None]:
    def change(logits: Array, past: int) -> None:
        if past <= position < past + logits.shape[1]:
            logits[:, position - past, token] = np.nan

    return change


def infinite_last(logits: Array, past: int) -> None:
    if past:
        logits[:, -1, 5] = np.inf


def late_row(present: list[Array]) -> list[Array]:
    return [np.concatenate([part[:, :, :1], part[:, :, :-1]], axis=2) for part in present]


def forgotten_row(present: list[Array]) -> list[Array]:
    for part in present:
        part[:, :, -1] = 0
    return present


def crossed_sequences(present: list[Array]) -> list[Array]:
    return [part[::-1].copy() for part in present]


def swapped_keys_and_values(present: list[Array]) -> list[Array]:
    return [part for pair in zip(present[1::2], present[::2], strict=True) for part in pair]


def nan_row(present: list[Array]) -> list[Array]:
    present[0][:, :, 0] = np.nan
    return present


def shifted_positions(ids: Ids, mask: Ids, positions: Ids) -> tuple[Ids, Ids, Ids]:
    """Relative positions are the same but between the cache and what follows it."""
    past = mask.shape[1] - ids.shape[1]
    return ids, mask, positions + (past > 0)


def scaled_positions(ids: Ids, mask: Ids, positions: Ids) -> tuple[Ids, Ids, Ids]:
    return ids, mask, positions // 2


def blind_first_token(ids: Ids, mask: Ids, positions: Ids) -> tuple[Ids, Ids, Ids]:
    if mask.shape[1] > 1:
        mask = mask.copy()
        mask[:, 0] = 0
    return ids, mask, positions


def seen_padding(ids: Ids, mask: Ids, positions: Ids) -> tuple[Ids, Ids, Ids]:
    return ids, np.ones_like(mask), positions


def swap_layers(model: AtomForCausalLM) -> None:
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def permute_heads(model: AtomForCausalLM) -> None:
    projection = model.model.layers[0].self_attn.q_proj
    size = model.config.head_dim
    projection.weight.copy_(torch.roll(projection.weight, size, 0))


def double(name: str) -> Callable[[AtomForCausalLM], None]:
    def change(model: AtomForCausalLM) -> None:
        dict(model.named_parameters())[name].mul_(2)

    return change


def swap_gate_and_up(model: AtomForCausalLM) -> None:
    feed_forward = model.model.layers[1].mlp
    feed_forward.gate_proj, feed_forward.up_proj = feed_forward.up_proj, feed_forward.gate_proj


def transpose_output(model: AtomForCausalLM) -> None:
    weight = model.model.layers[0].self_attn.o_proj.weight
    weight.copy_(weight.flip(1))


WRONG: dict[str, Fault] = {
    "NaN from position 64 on": in_logits(nan_from(64)),
    "NaN at the last position": in_logits(nan_from(CONTEXT - 1)),
    "one NaN in the middle": in_logits(nan_at(70, 4000)),
    "one NaN at the first token": in_logits(nan_at(0, 0)),
    "an infinite logit on a cache": in_logits(infinite_last),
    "a NaN in the cache": in_cache(nan_row),
    "a cache written one row late": in_cache(late_row),
    "a cache whose last row is not written": in_cache(forgotten_row),
    "sequences that take each other's cache": in_cache(crossed_sequences),
    "keys and values exchanged in the cache": in_cache(swapped_keys_and_values),
    "positions shifted by one after a cache": in_inputs(shifted_positions),
    "positions at half speed": in_inputs(scaled_positions),
    "a mask that hides the first token": in_inputs(blind_first_token),
    "a mask that shows the padding": in_inputs(seen_padding),
    "layers exchanged": in_weights(swap_layers),
    "heads permuted": in_weights(permute_heads),
    "an output projection flipped": in_weights(transpose_output),
    "gate and up exchanged": in_weights(swap_gate_and_up),
    "a norm doubled": in_weights(double("model.layers.1.input_layernorm.weight")),
    "a value projection doubled": in_weights(double("model.layers.0.self_attn.v_proj.weight")),
    "a down projection doubled": in_weights(double("model.layers.1.mlp.down_proj.weight")),
    "the embedding doubled": in_weights(double("model.embed_tokens.weight")),
}


@pytest.fixture(scope="module")
def snapshot(small_snapshot: Path) -> Snapshot:
    return open_snapshot(small_snapshot)


@pytest.fixture(scope="module")
def reference(snapshot: Snapshot) -> Reference:
    return open_reference(snapshot)


LIMITS = {
    "float32": lambda noise: Limits.of_float32(noise.error, noise.largest),
    "int8": lambda _: Limits(perplexity_ratio=1.008, mean_kl=0.004),
}


def engine(snapshot: Snapshot, fault: Fault | None = None) -> PortableEngine:
    graph = Graph(open_snapshot(snapshot.path).model)
    if fault is not None:
        graph.run = fault(graph.model, graph.run)  # type: ignore[method-assign]  # the fault
    return PortableEngine(graph, CONTEXT)


@pytest.mark.parametrize("precision", LIMITS)
def test_the_right_graph_passes(snapshot: Snapshot, reference: Reference, precision: str) -> None:
    limits = LIMITS[precision](reference.noise)
    figures = validate(engine(snapshot), reference, limits, SAMPLES["quick"])
    assert all(figure.holds for figure in figures)


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_graph_is_refused(
    snapshot: Snapshot, reference: Reference, what: str, precision: str
) -> None:
    limits = LIMITS[precision](reference.noise)
    figures = validate(engine(snapshot, WRONG[what]), reference, limits, SAMPLES["quick"])
    assert not figures[-1].holds
    assert all(figure.holds for figure in figures[:-1])
