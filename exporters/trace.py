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
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from atom_edge.errors import ExportError
from atom_edge.exporters.layers import alike_layers, first_layers, repeat_layers
from atom_edge.torch_decoder import TorchDecoder

OPSET = 20


def cache_names(layers: int, prefix: str) -> list[str]:
    """Names of the cache tensors, `prefix` being `past_key_values` or `present`."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def trace(decoder: TorchDecoder) -> ir.Model:
    """Trace `decoder` to the portable graph described at the top of this file.

    Args:
        decoder: of a model in evaluation mode and float32, whose attention implementation is
            restored.

    Returns:
        the graph, float32, opset 20, with onnxscript's constant folding applied and the tracer's
        per-node metadata removed.
    """
    with _eager_attention(decoder.model), _quiet_exporter(), torch.no_grad():
        try:
            program = _trace(decoder)
            program.optimize()
        except Exception as error:  # the tracer may raise anything over foreign code
            raise ExportError(
                f"PyTorch cannot trace {type(decoder.model).__name__}: {_first_line(error)}"
            ) from error
    graph = program.model
    _name_output_axes(graph)
    _strip_metadata(graph)
    return graph


def _trace(decoder: TorchDecoder) -> torch.onnx.ONNXProgram:
    """The decoder as its operators stand, of layers that are alike only the first traced."""
    stack = alike_layers(decoder)
    if stack is not None:
        with first_layers(decoder, stack):
            program = _trace_whole(decoder)
        if repeat_layers(program.model, decoder, stack):
            return program
    return _trace_whole(decoder)


def _trace_whole(decoder: TorchDecoder) -> torch.onnx.ONNXProgram:
    tensors = len(decoder.cache_shapes)
    batch = torch.export.Dim("batch_size")
    # Some classes look their tables up to the context, which the lengths must not pass.
    sequence, past, total = (
        torch.export.Dim(name, max=decoder.context_length)
        for name in ("sequence_length", "past_sequence_length", "total_sequence_length")
    )
    tokens = {0: batch, 1: sequence}
    program = torch.onnx.export(
        decoder,
        _example_inputs(decoder),
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        input_names=[
            *("input_ids", "attention_mask", "position_ids"),
            *cache_names(tensors // 2, "past_key_values"),
        ],
        output_names=["logits", *cache_names(tensors // 2, "present")],
        dynamic_shapes=(
            tokens,
            {0: batch, 1: total},
            tokens,
            [{0: batch, 2: past}] * tensors,
        ),
        verbose=False,
    )
    assert program is not None  # None only with an output file
    return program


def _example_inputs(decoder: TorchDecoder) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    # Sizes that are neither 0, 1 nor equal to one another, so that no axis is taken for constant.
    batch, past, tokens = 2, 5, 3
    return (
        torch.zeros(batch, tokens, dtype=torch.long),
        torch.ones(batch, past + tokens, dtype=torch.long),
        torch.arange(past, past + tokens).repeat(batch, 1),
        decoder.empty_cache(batch, past),
    )


def _first_line(error: BaseException) -> str:
    """The first line of the error that began a chain of them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


@contextlib.contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
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
