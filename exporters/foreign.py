"""The configuration files by which other runtimes open a bundle.

`config.json`, `tokenizer.json` and `tokenizer_config.json` serve optimum and transformers.js, which
look for graphs by their names; onnxruntime-genai reads `genai_config.json`.
"""

from __future__ import annotations

from typing import Any


def genai_config(config: Any, generation_config: dict[str, Any], graph_file: str) -> dict[str, Any]:
    """`genai_config.json` for the portable graph `graph_file`, a path within the bundle.

    The cache grows by concatenation, so that past and present may not share a buffer. Source:
    the configuration reference of onnxruntime-genai, which refuses null, and a list but for the
    end-of-sequence ids.
    """
    ids = {
        name: generation_config.get(name, getattr(config, name))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    begin, pad = _first(ids["bos_token_id"]), _first(ids["pad_token_id"])
    stated = {"bos_token_id": begin, "eos_token_id": ids["eos_token_id"], "pad_token_id": pad or 0}
    return {
        "model": {
            "type": "decoder",
            **{name: value for name, value in stated.items() if value is not None},
            "vocab_size": config.vocab_size,
            "context_length": config.max_position_embeddings,
            "decoder": {
                "filename": graph_file,
                "session_options": {"log_id": "atom-edge", "provider_options": []},
                "hidden_size": config.hidden_size,
                "head_size": width,
                "num_attention_heads": heads,
                "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
                "num_hidden_layers": config.num_hidden_layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": config.max_position_embeddings,
            "past_present_share_buffer": False,
        },
    }


def _first(ids: int | list[int] | None) -> int | None:
    if isinstance(ids, list):
        return ids[0] if ids else None
    return ids
