"""Tracing: the PyTorch model, with its KV cache as inputs and outputs, becomes an ONNX graph.

One graph serves prefill (no past) and decode (one new token). Names and axes are those that
Optimum, onnxruntime-genai and transformers.js expect of a decoder. With B `batch_size`, T
`sequence_length`, P `past_sequence_length`, S `total_sequence_length` = P + T, K key-value heads,
D head size, V vocabulary:

    input_ids                    int64 [B, T]
    attention_mask               int64 [B, S], 1 for a token, 0 for padding
    position_ids                 int64 [B, T]
    past_key_values.{i}.key      float32 [B, K, P, D]; .value likewise; P may be 0
    logits                       float32 [B, T, V]
    present.{i}.key              float32 [B, K, S, D]; .value likewise
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import Tensor, nn

from atom_edge.modeling import AtomForCausalLM

OPSET = 20
_BATCH = torch.export.Dim("batch_size")
_SEQUENCE = torch.export.Dim("sequence_length")
_PAST = torch.export.Dim("past_sequence_length")
_TOTAL = torch.export.Dim("total_sequence_length")


class _CacheInputs:
    """The part of transformers' cache that the model uses, over traced tensors."""

    def __init__(self, past: tuple[Tensor, ...]) -> None:
        self.past = past
        self.present: list[Tensor] = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.past[2 * layer_idx].shape[2]

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: object
    ) -> tuple[Tensor, Tensor]:
        past_key, past_value = self.past[2 * layer_idx : 2 * layer_idx + 2]
        key, value = torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)
        self.present += [key, value]
        return key, value


class DecoderWithCache(nn.Module):
    """`AtomForCausalLM` as a function of tensors alone: the module that is traced."""

    def __init__(self, model: AtomForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Logits, then the extended cache as key and value of each layer in turn."""
        batch, tokens = input_ids.shape
        # Told at once which sizes are one, the tracer need not prove it at every operator.
        for other in (attention_mask, position_ids, *past):
            torch._check(other.shape[0] == batch)
        torch._check(position_ids.shape[1] == tokens)
        for other in past:
            torch._check(other.shape[2] == past[0].shape[2])
        torch._check(past[0].shape[2] + tokens == attention_mask.shape[1])
        cache = _CacheInputs(tuple(past))
        output = self.model(
            input_ids=input_ids,
            attention_mask=causal_bias(attention_mask, tokens),
            position_ids=position_ids,
            past_key_values=cache,
        )
        return (output.logits, *cache.present)


def causal_bias(attention_mask: Tensor, tokens: int) -> Tensor:
    """What is added to the scores: 0 where a new token may look, the lowest float elsewhere.

    Args:
        attention_mask: int64 `[B, S]`.
        tokens: T, the new ones; they are the last of S.

    Returns:
        float32 `[B, 1, T, S]`.
    """
    total = attention_mask.shape[1]
    columns = torch.arange(total, device=attention_mask.device)
    rows = torch.arange(tokens, device=attention_mask.device) + (total - tokens)
    visible = columns[None, :] <= rows[:, None]
    visible = visible[None, None] & (attention_mask[:, None, None, :] != 0)
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)


def cache_names(layers: int, prefix: str) -> list[str]:
    """Names of the cache tensors, `prefix` being `past_key_values` or `present`."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def trace(model: AtomForCausalLM) -> ir.Model:
    """Trace `model` to the portable graph described at the top of this file.

    Args:
        model: in evaluation mode and float32; its attention implementation is restored.

    Returns:
        the graph, float32, opset 20, with onnxscript's constant folding applied and the tracer's
        per-node metadata removed.
    """
    config = model.config
    inputs = _example_inputs(model)
    cache_axes = {0: _BATCH, 2: _PAST}
    with _eager_attention(model), _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            DecoderWithCache(model).eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=[
                "input_ids",
                "attention_mask",
                "position_ids",
                *cache_names(config.num_hidden_layers, "past_key_values"),
            ],
            output_names=["logits", *cache_names(config.num_hidden_layers, "present")],
            dynamic_shapes=(
                {0: _BATCH, 1: _SEQUENCE},
                {0: _BATCH, 1: _TOTAL},
                {0: _BATCH, 1: _SEQUENCE},
                [cache_axes] * (2 * config.num_hidden_layers),
            ),
            verbose=False,
        )
    assert program is not None  # None only with an output file
    graph = program.model
    _name_output_axes(graph)
    _strip_metadata(graph)
    return graph


def _example_inputs(model: AtomForCausalLM) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    # Sizes that are neither 0, 1 nor equal to one another, so that no axis is taken for constant.
    batch, past, tokens = 2, 5, 3
    config = model.config
    shape = (batch, config.num_key_value_heads, past, config.head_dim)
    return (
        torch.zeros(batch, tokens, dtype=torch.long),
        torch.ones(batch, past + tokens, dtype=torch.long),
        torch.arange(past, past + tokens).repeat(batch, 1),
        [torch.randn(shape) for _ in range(2 * config.num_hidden_layers)],
    )


@contextlib.contextmanager
def _eager_attention(model: AtomForCausalLM) -> Iterator[None]:
    previous = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Deprecations inside the tracer say nothing about the model.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_output_axes(graph: ir.Model) -> None:
    batch, sequence, total = "batch_size", "sequence_length", "total_sequence_length"
    for value in graph.graph.outputs:
        assert value.shape is not None
        if value.name == "logits":
            value.shape = ir.Shape([batch, sequence, value.shape[2]])
        else:
            value.shape = ir.Shape([batch, value.shape[1], total, value.shape[3]])


def _strip_metadata(graph: ir.Model) -> None:
    # The tracer writes a stack trace into every node: a tenth of the file, and machine paths.
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*graph.graph.inputs, *graph.graph.outputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
