"""Random models of transformers' own classes, saved as it saves them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.implementations import ByteLevelBPETokenizer
from torch import nn
from transformers import AutoModelForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 280,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
# What makes each of them not plain Llama, by the name of its configuration class.
COMPUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_theta": 5000.0}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("Llama", {"head_dim": 24}),
    "llama, linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama3": ("Llama", {"rope_theta": 500000.0, "rope_scaling": _LLAMA3, "head_dim": 32}),
    "llama, yarn": ("Llama", {"rope_scaling": {**_YARN, "beta_fast": 16.0}}),
    "llama, yarn with mscale": (
        "Llama",
        {"rope_scaling": {**_YARN, "mscale": 0.707, "mscale_all_dim": 1.0}},
    ),
    "mistral in its window": ("Mistral", {"sliding_window": 128}),
    "mistral without a window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"use_sliding_window": False, "sliding_window": 32}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen3, yarn, biases": (
        "Qwen3",
        {"head_dim": 16, "attention_bias": True, "rope_scaling": _YARN},
    ),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625,
            "logits_scaling": 8.0,
        },
    ),
    "phi3": ("Phi3", {}),
    "phi3, partial": ("Phi3", {"partial_rotary_factor": 0.75, "head_dim": 16}),
}

# Classes that AtomForCausalLM does not compute. Windows are shorter than the context.
OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "pythia": ("GPTNeoX", {"rotary_pct": 0.25}),
    "gpt-neo": (
        "GPTNeo",
        {"num_layers": 2, "num_heads": 4, "window_size": 24}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "opt": ("OPT", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "gemma3": (
        "Gemma3Text",
        {"head_dim": 32, "sliding_window": 24}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi": ("Phi", {}),
    "stablelm": ("StableLm", {}),
    "mistral": ("Mistral", {"sliding_window": 24}),
    "qwen2, windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "llama, gelu": ("Llama", {"hidden_act": "gelu"}),
}


def save_random(folder: Path, family: str, options: dict[str, Any], seed: int = 0) -> nn.Module:
    """A random model of a class of transformers and a tokenizer, saved to `folder`."""
    torch.manual_seed(seed)
    if transformers.__version__.startswith("5"):
        options = _newer(options)
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **options})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


@cache
def tokenizer() -> ByteLevelBPETokenizer:
    """A byte-level BPE tokenizer of 280 tokens; ids 0, 1 and 2 are pad, bos and eos."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        ["the water cycle is the way of the water"] * 20,
        vocab_size=280,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        show_progress=False,
    )
    return trained


def _newer(options: dict[str, Any]) -> dict[str, Any]:
    """Rotary options where transformers 5 has them."""
    names = {"rope_theta", "partial_rotary_factor"} & set(options)
    inner = {name: options[name] for name in names} | options.get("rope_scaling", {})
    if "type" in inner:
        inner["rope_type"] = inner.pop("type")
    rest = {name: value for name, value in options.items() if name not in {*names, "rope_scaling"}}
    if inner:
        rest["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, **inner}
    return rest
