"""From a PyTorch model to the native graph: the whole decoder as one operator, weights once.

The graph has a single node, `Decoder` of the domain `atom_edge`, which the library in
`runtimes/native` computes. One run appends new tokens to B sequences, and may go on to choose and
append further tokens itself. B sequences, T the most new tokens of one of them, N rows of logits,
P pages of the cache, M the most pages of a sequence, L layers, K key-value heads, D the head size
rounded up to a multiple of 16, V the vocabulary.

Inputs of every run:

    input_ids     int64 [B, T]   the new tokens; what is past a sequence's count is not read
    counts        int64 [B]      how many of the T are new tokens of the sequence, 1 to T
    past_lengths  int64 [B]      tokens of the sequence that are in the cache already
    logit_rows    int64 [N]      tokens whose logits are wanted: b * T + t, ascending; N may be 0
    pages         int64 [B, M]   the pages of each sequence, in order; 16 tokens a page
    cache         float32 [P, L, 2, K, 16 * D]   keys and values; memory of the caller

Outputs:

    logits        float32 [N, V]
    cache_out     like cache: bind it to the memory of `cache`, and nothing is copied

A page holds 16 consecutive tokens of one sequence, in all layers; how it is laid out inside is the
operator's own affair. Token i of a sequence is in page `pages[b, i // 16]`; only pages below
`past_lengths + counts` are looked at. Sequences may share the pages of a common prefix as long as
none of them writes there. To crop is to give a smaller past length; to copy a prefix is to copy
whole pages; a cache of one sequence grows by appending pages to the array.

The logits of a token depend on the tokens before it alone, bit for bit: not on how they were cut
into runs, on the rest of the batch, or on the number of threads.

The loop inside: with `steps` S above 0, the run then chooses the next token of every sequence from
the logits of its last token, appends it, and so on, until S tokens are chosen or all sequences have
ended. The last chosen token is not appended: it is the first input of the next run. Of these
inputs only the first is looked at where it is 0; arrays without elements do for the others then.

    steps         int64 [1]      tokens to choose; 0 for logits alone
    end_ids       int64 [E]      tokens that end a sequence
    sampling      float64 [B, 5] temperature (0 is greedy), top_k (0 is all), top_p, min_p,
                                 repetition penalty
    seeds         int64 [B, 2]   the seed, its 64 bits, and how many numbers were drawn before: one
                                 for each token that was chosen
    history       int64 [B, H]   tokens that count as repeated, -1 for none; what the run itself
                                 chooses is added
    alternatives  int64 [1]      A, how many of the likeliest tokens to rate beside the chosen one;
                                 -1 for no log-probabilities at all

    tokens             int64 [B, S]         chosen, the end token included; -1 after it
    top_tokens         int64 [B, S, A]      the likeliest, most likely first; -1 after the end
    log_probabilities  float64 [B, S, 1+A]  of the chosen token and of those; [B, S, 0] if not asked

Tokens are chosen as `runtimes/sampling.py` chooses them from the same logits, to the bit. Numbers
of a greedy sequence are counted and not looked at.

Room for the appended tokens, `past_lengths + counts + steps - 1`, must be in `pages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper

from atom_edge.exporters.description import Description, Linear, describe
from atom_edge.exporters.packed import Floats, pack, pad
from atom_edge.modeling import AtomForCausalLM

DOMAIN = "atom_edge"
PAGE_TOKENS = 16
_OPSET, _IR_VERSION = 21, 10


@dataclass(frozen=True)
class Scheme:
    """How products are made integers.

    Attributes:
        segment: inputs of a product that share a scale: a multiple of 16; 0 for all of them.
        activation_bits: 8, or 16 in segments of at most 256.
        activation_by_row: one scale for all inputs of a token, not one a segment.
    """

    segment: int = 32
    activation_bits: int = 8
    activation_by_row: bool = False

    def __str__(self) -> str:
        """The scheme in words."""
        parts = f"in segments of {self.segment}" if self.segment else "by row"
        own = self.segment and self.activation_by_row
        activations = f"{self.activation_bits}-bit activations {'by row' if own else 'likewise'}"
        return f"8-bit weights {parts}, {activations}"


SCHEMES = (
    Scheme(segment=0),
    Scheme(segment=96),
    Scheme(segment=32),
    Scheme(segment=32, activation_bits=16, activation_by_row=True),
)
"""What is worth choosing from, fastest first."""


def native_graph(model: AtomForCausalLM, scheme: Scheme) -> ir.Model:
    """The graph of role `native` of a PyTorch model."""
    return ir.from_proto(build(describe(model), scheme))


def build(decoder: Description, scheme: Scheme) -> onnx.ModelProto:
    """The graph of a decoder, its weights quantized as the scheme says."""
    weights = _Weights(scheme.segment)
    weights.add_matrix("embedding", [Linear(decoder.embedding)], bias=False)
    if decoder.head is None:
        weights.inputs += weights.inputs[-2:]
        weights.add("head_bias", None)
    else:
        weights.add_matrix("head", [decoder.head])
    weights.add("final_norm", pad(decoder.final_norm, 0))
    _add_layers(weights, decoder)
    weights.add("inverse_frequencies", decoder.inverse_frequencies)

    runtime = _runtime_inputs(decoder)
    vocabulary = len(decoder.embedding)
    cache_shape = list(runtime[5].type.tensor_type.shape.dim)[1:]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["logit_rows", vocabulary]),
        helper.make_tensor_value_info(
            "cache_out", TensorProto.FLOAT, ["pages", *(size.dim_value for size in cache_shape)]
        ),
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "chosen"]),
        helper.make_tensor_value_info("top_tokens", TensorProto.INT64, ["batch", "chosen", "top"]),
        helper.make_tensor_value_info(
            "log_probabilities", TensorProto.DOUBLE, ["batch", "chosen", "rated"]
        ),
    ]
    node = helper.make_node(
        "Decoder",
        [*(value.name for value in runtime), *weights.inputs],
        [value.name for value in outputs],
        name="decoder",
        domain=DOMAIN,
        **_attributes(decoder, scheme),
    )
    graph = helper.make_graph([node], "decoder", runtime, outputs, weights.initializers)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="atom-edge"
    )


def _attributes(decoder: Description, scheme: Scheme) -> dict[str, Any]:
    scale = decoder.attention_scale
    return {
        "layers": len(decoder.layers),
        "heads": decoder.heads,
        "kv_heads": decoder.kv_heads,
        "head_size": decoder.head_size,
        "hidden": decoder.embedding.shape[1],
        "feed_forward": len(decoder.layers[0].gate.weight),
        "vocabulary": len(decoder.embedding),
        "rotary_pairs": len(decoder.inverse_frequencies),
        "rotated": [int(layer.rotated) for layer in decoder.layers],
        "exclusive": int(decoder.exclusive),
        "segment": scheme.segment,
        "activation_bits": scheme.activation_bits,
        "activation_by_row": int(scheme.activation_by_row),
        "epsilon": float(decoder.epsilon),
        "rotary_scale": float(decoder.rotary_scale),
        "attention_scale": float(decoder.head_size**-0.5 if scale is None else scale),
        "embedding_scale": float(decoder.embedding_scale),
        "residual_scale": float(decoder.residual_scale),
        "logit_scale": float(decoder.logit_scale),
    }


def _runtime_inputs(decoder: Description) -> list[onnx.ValueInfoProto]:
    padded = decoder.head_size + -decoder.head_size % 16
    cache: list[str | int | None] = [
        "pages",
        len(decoder.layers),
        2,
        decoder.kv_heads,
        PAGE_TOKENS * padded,
    ]
    integer, real, double = TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE
    inputs: tuple[tuple[str, int, list[str | int | None]], ...] = (
        ("input_ids", integer, ["batch", "tokens"]),
        ("counts", integer, ["batch"]),
        ("past_lengths", integer, ["batch"]),
        ("logit_rows", integer, ["logit_rows"]),
        ("pages", integer, ["batch", "sequence_pages"]),
        ("cache", real, cache),
        ("steps", integer, [1]),
        ("end_ids", integer, ["end_ids"]),
        ("sampling", double, ["sampled", 5]),
        ("seeds", integer, ["sampled", 2]),
        ("history", integer, ["sampled", "history"]),
        ("alternatives", integer, [1]),
    )
    return [helper.make_tensor_value_info(*described) for described in inputs]


def _add_layers(weights: _Weights, decoder: Description) -> None:
    layers, size = decoder.layers, decoder.head_size

    def norms(name: str) -> None:
        values = [getattr(layer, name) for layer in layers]
        given = [pad(value, 0) for value in values if value is not None]
        weights.add(name, np.stack(given) if given else None)

    def heads(linear: Linear) -> Linear:
        """Every head's outputs, padded."""
        count = len(linear.weight) // size
        weight = pad(linear.weight.reshape(count, size, -1), 1)
        bias = None if linear.bias is None else pad(linear.bias.reshape(count, size), 1).reshape(-1)
        return Linear(weight.reshape(-1, weight.shape[-1]), bias)

    def from_heads(linear: Linear) -> Linear:
        """Every head's inputs, padded."""
        weight = pad(linear.weight.reshape(len(linear.weight), -1, size), 2)
        return Linear(weight.reshape(len(weight), -1), linear.bias)

    norms("attention_norm")
    weights.add_matrix(
        "qkv",
        [_stacked([heads(layer.query), heads(layer.key), heads(layer.value)]) for layer in layers],
    )
    norms("query_norm")
    norms("key_norm")
    weights.add_matrix("attention_output", [from_heads(layer.attention_output) for layer in layers])
    norms("feed_forward_norm")
    weights.add_matrix(
        "gate_up", [_stacked([_rows(layer.gate), _rows(layer.up)]) for layer in layers]
    )
    weights.add_matrix("down", [layer.down for layer in layers])


def _rows(linear: Linear) -> Linear:
    bias = None if linear.bias is None else pad(linear.bias, 0)
    return Linear(pad(linear.weight, 0), bias)


def _stacked(parts: Sequence[Linear]) -> Linear:
    """One product that gives the outputs of several over the same input."""
    bias = None
    if any(part.bias is not None for part in parts):
        bias = np.concatenate(
            [
                np.zeros(len(part.weight), np.float32) if part.bias is None else part.bias
                for part in parts
            ]
        )
    return Linear(np.concatenate([part.weight for part in parts]), bias)


@dataclass
class _Weights:
    """Initializers, and the node's inputs that they are.

    Attributes:
        segment: see `Scheme`.
    """

    segment: int
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def add(self, name: str, values: Floats | None) -> None:
        """Add float32; None where the model has no such weights, an empty tensor for the node."""
        values = np.zeros(0, np.float32) if values is None else values
        self._add(name, values, TensorProto.FLOAT)

    def add_matrix(self, name: str, matrices: Sequence[Linear], bias: bool = True) -> None:
        """Add the same product of all layers: its integers, its scales, and its bias."""
        padded = [_rows(Linear(pad(matrix.weight, 1), matrix.bias)) for matrix in matrices]
        packed = [pack(matrix.weight, self.segment) for matrix in padded]
        self._add(name, np.stack([part.weights for part in packed]), TensorProto.INT8)
        scales = np.stack([part.scales for part in packed])
        self._add(f"{name}_scales", scales, TensorProto.BFLOAT16)
        if bias:
            zeros = np.zeros(len(padded[0].weight), np.float32)
            given = [zeros if matrix.bias is None else matrix.bias for matrix in padded]
            has_bias = any(matrix.bias is not None for matrix in padded)
            self.add(f"{name}_bias", np.stack(given) if has_bias else None)

    def _add(self, name: str, values: NDArray[Any], kind: int) -> None:
        self.initializers.append(
            helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True)
        )
        self.inputs.append(name)
