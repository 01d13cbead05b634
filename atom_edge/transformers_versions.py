"""What is called otherwise in transformers 4.57 and in the versions 5."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask

try:
    from transformers.initialization import no_init_weights  # 5
except ImportError:
    from transformers.modeling_utils import no_init_weights
try:
    from transformers import GgufConfig  # 5: it may keep the weights packed
except ImportError:
    GgufConfig = None

__all__ = [
    "cache_argument",
    "cache_in",
    "causal_mask",
    "dense_from_gguf",
    "no_init_weights",
    "quiet_transformers",
]

_MASK_ARGUMENTS = inspect.signature(create_causal_mask).parameters


def cache_argument(model: nn.Module) -> str:
    """What `model.forward` calls its key-value cache: `cache` from 5.24 on."""
    names = inspect.signature(model.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in names:
            return name
    # It passes on what it is given.
    return "cache" if "cache" in _MASK_ARGUMENTS else "past_key_values"


def cache_in(output: Any) -> Any:
    """The key-value cache in a model's output, None if there is none."""
    return output["cache"] if "cache" in output else output.get("past_key_values")


def causal_mask(
    *,
    config: PretrainedConfig,
    embeddings: Tensor,
    attention_mask: Tensor | None,
    cache_position: Tensor,
    cache: Cache | None,
    position_ids: Tensor,
) -> Any:
    """The mask of causal attention in the form of the attention implementation that is chosen.

    Args:
        config: names the attention implementation.
        embeddings: `[B, T, E]`.
        attention_mask: 1 for tokens and 0 for padding, `[B, S]`, or a 4-D mask, returned as it is.
        cache_position: int64 `[T]`, places of the new tokens in the cache.
        cache: the cache before the new tokens.
        position_ids: int64 `[B, T]`.
    """
    arguments = {
        "config": config,
        "input_embeds": embeddings,
        "inputs_embeds": embeddings,
        "attention_mask": attention_mask,
        "cache_position": cache_position,
        "past_key_values": cache,
        "cache": cache,
        "position_ids": position_ids,
    }
    named = {name: value for name, value in arguments.items() if name in _MASK_ARGUMENTS}
    return create_causal_mask(**named)


def dense_from_gguf(file: Path) -> PreTrainedModel:
    """The model of a GGUF file with its weights in float32; `save_pretrained` writes it."""
    options = {} if GgufConfig is None else {"quantization_config": GgufConfig(dequantize=True)}
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, dtype=torch.float32, **options
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' advice to its own users, and its progress bars, off stderr."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
