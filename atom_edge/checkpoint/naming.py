"""The tensors of a snapshot under this package's names, by the field's naming schools.

Names are read component by component: wrappers' prefixes are dropped, then what is left must
match one rule of the tables below exactly. A fused matrix keeps one name of its own here
(`qkv_proj`, `kv_proj`, `gate_up_proj`) and is separated in `layout`.

Every tensor is used exactly once. What matches no rule, what two tensors claim, and what is
missing is listed in one error; nothing is guessed from the order or number of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

from torch import Tensor

from atom_edge.checkpoint.buffers import is_buffer
from atom_edge.errors import UnsupportedModelError, WeightsError

# Components that wrappers insert: torch.compile, FSDP and checkpointing anywhere in a name,
# DataParallel and the model's own attributes at its front.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_FRONTS = {"module", "model", "transformer", "backbone", "decoder", "gpt", "lm", "net"}

_SUFFIX = r"\.weight"
_PART = r"\.(?P<part>weight|bias)"
_NORM_SUFFIX = r"\.(?:weight|scale|gamma|g)"  # RMSNorm's one parameter has several names
_LAYER = r"(?:layers|h|blocks|block|layer)\.(\d+)\."
_ATTENTION = r"(?:self_attn|attention|attn|self_attention|att)\."
_MLP = r"(?:mlp|feed_forward|ffn|ff|ffwd)\."

_OUTSIDE_LAYERS = {
    "model.embed_tokens.weight": (
        r"(?:embed_tokens|tok_embeddings|wte|embedding|embeddings|embed|tok_emb|emb"
        r"|token_embedding|token_embeddings|tok_embedding|token_emb|word_embeddings)" + _SUFFIX
    ),
    "model.norm.weight": (
        r"(?:norm|ln_f|norm_f|final_norm|norm_final|final_layernorm|final_layer_norm|ln_final"
        r"|out_norm)" + _NORM_SUFFIX
    ),
    "lm_head.weight": r"(?:lm_head|output|head|embed_out|unembed|out_head)" + _SUFFIX,
}
_INSIDE_LAYERS = {
    "input_layernorm": (
        r"(?:input_layernorm|attention_norm|attn_norm|ln_1|ln1|norm_1|norm1|rms_1|rms1"
        r"|ln_attn|norm_attn|pre_attention_layernorm|pre_attn_norm)" + _NORM_SUFFIX
    ),
    "post_attention_layernorm": (
        r"(?:post_attention_layernorm|ffn_norm|mlp_norm|ln_2|ln2|norm_2|norm2|rms_2|rms2"
        r"|ln_mlp|norm_mlp|pre_mlp_norm|pre_ffn_norm|feed_forward_norm|ff_norm)" + _NORM_SUFFIX
    ),
    "self_attn.q_proj": _ATTENTION + r"(?:q_proj|wq|c_q|q|query|q_linear|to_q|w_q)" + _PART,
    "self_attn.k_proj": _ATTENTION + r"(?:k_proj|wk|c_k|k|key|k_linear|to_k|w_k)" + _PART,
    "self_attn.v_proj": _ATTENTION + r"(?:v_proj|wv|c_v|v|value|v_linear|to_v|w_v)" + _PART,
    "self_attn.qkv_proj": (
        _ATTENTION
        + r"(?:qkv_proj|c_attn|qkv|Wqkv|wqkv|W_pack|attn|query_key_value|in_proj|to_qkv)"
        + _PART
    ),
    "self_attn.kv_proj": _ATTENTION + r"(?:kv_proj|kv|wkv|c_kv|to_kv)" + _PART,
    "self_attn.o_proj": (
        _ATTENTION
        + r"(?:o_proj|wo|c_proj|proj|out_proj|out|o|dense|to_out|w_o|output|output_proj)"
        + _PART
    ),
    "self_attn.q_norm": _ATTENTION + r"(?:q_norm|query_norm|norm_q)" + _NORM_SUFFIX,
    "self_attn.k_norm": _ATTENTION + r"(?:k_norm|key_norm|norm_k)" + _NORM_SUFFIX,
}
_IN_MLP = re.compile(_LAYER + _MLP + r"(\w+)" + _PART)

# The feed-forward layer's names mean different things in different schools (`w2` is Meta's down
# projection and xFormers' up projection), so one row must explain all of a file's names.
_GATED_ROWS = (
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),  # Meta
    ("w1", "w2", "w3"),  # xFormers; told from Meta by shape
    ("fc_1", "fc_2", "proj"),  # LitGPT
    ("gate", "up", "down"),
    ("w_gate", "w_up", "w_down"),
    ("c_gate", "c_up", "c_down"),
    ("c_gate", "c_fc", "c_proj"),
    ("gate_proj", "c_fc", "c_proj"),
    ("w_gate", "c_fc", "c_proj"),
    ("gate", "c_fc", "c_proj"),
    ("c_fc1", "c_fc2", "c_proj"),
    ("c_fc_1", "c_fc_2", "c_proj"),
    ("c_fc", "c_fc2", "c_proj"),
    ("w1", "w2", "c_proj"),
    ("fc1", "fc2", "fc3"),
    ("linear_gate", "linear_up", "linear_down"),
)
_FUSED_ROWS = (
    ("gate_up_proj", "down_proj"),
    ("gate_up", "down"),
    ("w13", "w2"),
    ("w12", "w3"),  # xFormers
    ("c_fc", "c_proj"),
    ("fc", "proj"),
    ("fc1", "fc2"),
    ("dense_h_to_4h", "dense_4h_to_h"),
)

# What a tensor of another architecture is, so that the refusal can say it.
_FEATURES = {
    r".*\.(?:q_bias|k_bias|v_bias|b)": "biases under names of their own",
    r"(?:lm_head|output|head|embed_out|unembed|out_head)\.bias": "a bias of the logits",
    r".*(?:norm|ln|rms)\w*(?:\.norms\.\d+)?\.bias": "norms with a bias (LayerNorm)",
    r".*\b(?:q_layernorm|k_layernorm)\b.*": "query/key norms of another kind",
    r"(?:wpe|pos_emb|pos_embed|position_embedding|position_embeddings|embed_positions)\b.*": (
        "learned positions"
    ),
    r".*\b(?:experts|router|block_sparse_moe|shared_expert)\b.*": "experts",
    r".*\b(?:lora_A|lora_B|lora_embedding_A)\b.*": "adapters that are not merged",
    r".*\.(?:qweight|qzeros|scales|weight_scale|weight_scale_inv|g_idx)": "quantized weights",
}


@dataclass(frozen=True)
class NamedTensors:
    """A snapshot's parameters: tensors by this package's names, and the names in the file."""

    tensors: dict[str, Tensor]
    origin: dict[str, str]

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len({name.split(".")[2] for name in self.tensors if ".layers." in name})

    @property
    def school(self) -> str:
        """The naming school of the attention: `Llama`, `Meta`, `GPT`, or the name found there."""
        names = {"q_proj": "Llama", "wq": "Meta", "c_attn": "GPT"}
        for role in ("q_proj", "qkv_proj"):
            found = self.origin.get(f"model.layers.0.self_attn.{role}.weight")
            if found is not None:
                leaf = found.split(".")[-2]
                return names.get(leaf, leaf)
        return "unknown"


def name_tensors(tensors: Mapping[str, Tensor]) -> NamedTensors:
    """Give every parameter this package's name; leave out the buffers that are known.

    Raises:
        UnsupportedModelError: parameters of a feature that `AtomForCausalLM` does not compute.
        WeightsError: parameters that no rule knows, that two tensors claim, or that are missing.
    """
    parameters = {
        name: stripped for name in tensors if not is_buffer(stripped := _strip(name), tensors[name])
    }
    _refuse_features(parameters, tensors)
    mlp_roles = _mlp_roles(parameters, tensors)

    claims: dict[str, list[str]] = {}
    for name, stripped in parameters.items():
        claims.setdefault(_canonical(stripped, mlp_roles) or "", []).append(name)
    unknown = claims.pop("", [])
    twice = {name: names for name, names in claims.items() if len(names) > 1}
    expected = _expected(set(claims))
    lines = [f"unknown: {_shown([name], tensors)}" for name in sorted(unknown)]
    lines += [f"twice {name}: {_shown(names, tensors)}" for name, names in sorted(twice.items())]
    lines += [f"missing: {name}" for name in expected if name not in claims]
    lines += [
        f"not needed beside the others: {_shown(names, tensors)}"
        for name, names in sorted(claims.items())
        if name not in expected and name != "lm_head.weight"
    ]
    lines += [
        f"neither a matrix nor a norm's vector: {_shown(names, tensors)}"
        for name, names in sorted(claims.items())
        if not all(_has_rank(tensors[each], _rank(name)) for each in names)
    ]
    if lines:
        raise WeightsError(
            "The tensors do not make one model of a known naming school, so nothing is loaded:\n  "
            + "\n  ".join(lines)
        )
    origin = {name: names[0] for name, names in claims.items()}
    return NamedTensors({name: tensors[found] for name, found in origin.items()}, origin)


def _shown(names: list[str], tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensors[name].shape)}" for name in names)


def _rank(name: str) -> int:
    return 1 if "norm" in name or name.endswith(".bias") else 2


def _has_rank(tensor: Tensor, rank: int) -> bool:
    return tensor.dim() == rank and tensor.numel() > 0


def _strip(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] in _FRONTS:
        parts = parts[1:]
    return ".".join(parts)


def _refuse_features(parameters: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    found = [
        f"{feature}: {name} {list(tensors[name].shape)}"
        for name, stripped in sorted(parameters.items())
        for pattern, feature in _FEATURES.items()
        if re.fullmatch(pattern, stripped)
    ]
    if found:
        raise UnsupportedModelError(
            "The snapshot has parameters of what AtomForCausalLM does not compute:\n  "
            + "\n  ".join(found)
        )


def _canonical(stripped: str, mlp_roles: Mapping[str, str]) -> str | None:
    for canonical, pattern in _OUTSIDE_LAYERS.items():
        if re.fullmatch(pattern, stripped):
            return canonical
    for role, pattern in _INSIDE_LAYERS.items():
        if match := re.fullmatch(_LAYER + pattern, stripped):
            return f"model.layers.{int(match[1])}.{role}.{match.groupdict().get('part', 'weight')}"
    match = _IN_MLP.fullmatch(stripped)
    if match and match[2] in mlp_roles:
        return f"model.layers.{int(match[1])}.mlp.{mlp_roles[match[2]]}.{match['part']}"
    return None


def _mlp_roles(parameters: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What each name inside the feed-forward layers stands for; empty if no row explains all."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, stripped in parameters.items():
        match = _IN_MLP.fullmatch(stripped)
        if match and match["part"] == "weight":
            shapes.setdefault(match[2], tuple(tensors[name].shape))
    found = set(shapes)
    gated = [
        dict(zip(row, ("gate_proj", "up_proj", "down_proj"), strict=True)) for row in _GATED_ROWS
    ]
    fused = [dict(zip(row, ("gate_up_proj", "down_proj"), strict=True)) for row in _FUSED_ROWS]
    rows = [*gated, *fused]
    exact = [row for row in rows if set(row) == found]
    if exact:  # w1, w2, w3 are names of two schools: which of them maps back is told by shape
        hidden = _hidden_size(parameters, tensors)
        return max(exact, key=lambda row: _plausible(row, shapes, hidden))
    # With a tensor missing everywhere, the first row that has all others tells which.
    return next((row for row in rows if found and found < set(row)), {})


def _hidden_size(parameters: Mapping[str, str], tensors: Mapping[str, Tensor]) -> int:
    embedding = re.compile(_OUTSIDE_LAYERS["model.embed_tokens.weight"])
    widths = [
        tensors[n].shape[-1] for n, stripped in parameters.items() if embedding.fullmatch(stripped)
    ]
    return widths[0] if widths else 0


def _plausible(row: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], hidden: int) -> int:
    """How many of the matrices have the hidden size on the side where `row` needs it."""
    return sum(
        shapes[name][:1] == (hidden,) if role == "down_proj" else shapes[name][-1:] == (hidden,)
        for name, role in row.items()
    )


def _expected(found: Set[str]) -> list[str]:
    """What one model consists of, given which of its matrices are fused."""
    layers = {name.split(".")[2] for name in found if ".layers." in name}
    fused_mlp = any(name.endswith("gate_up_proj.weight") for name in found)
    expected = ["model.embed_tokens.weight", "model.norm.weight"]
    has = {".".join(name.split(".")[3:]) for name in found if ".layers." in name}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if has & {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}:
        norms += ["self_attn.q_norm", "self_attn.k_norm"]
    for layer in range(max(len(layers), 1)):
        prefix = f"model.layers.{layer}."
        if prefix + "self_attn.qkv_proj.weight" in found:
            inputs = ["self_attn.qkv_proj"]
        elif prefix + "self_attn.kv_proj.weight" in found:
            inputs = ["self_attn.q_proj", "self_attn.kv_proj"]
        else:
            inputs = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
        gates = ["mlp.gate_up_proj"] if fused_mlp else ["mlp.gate_proj", "mlp.up_proj"]
        groups = (inputs, ["self_attn.o_proj"], [*gates, "mlp.down_proj"])
        roles = [*norms, *(role for group in groups for role in group)]
        expected += [f"{prefix}{role}.weight" for role in roles]
        # What has one bias has all of the same kind.
        biased = (group for group in groups if any(f"{role}.bias" in has for role in group))
        expected += [f"{prefix}{role}.bias" for group in biased for role in group]
    return expected
