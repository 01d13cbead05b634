"""What a config.json states of positions: rotary embedding, its scaling, and sliding windows.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 all of it in
`rope_parameters`; files of the field mix them. Two statements that differ are an error, and of the
options inside only those are passed that are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atom_edge.config import scaling_problems
from atom_edge.errors import SnapshotError, UnsupportedModelError

OPTIONS = ("rope_scaling", "rope_parameters")
FRACTIONS = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_percentage")
WINDOWS = ("sliding_window", "sliding_window_size", "attention_window", "window_size")
READ = (
    *(*OPTIONS, *FRACTIONS, *WINDOWS, "rotary_dim", "use_sliding_window", "layer_types"),
    *("no_rope_layers", "rotary_scaling", "unrotated_layers"),
)
"""What this module reads of a config.json."""

_ORIGINAL = "original_max_position_embeddings"
_ABSENT = (None, False, 0, -1)


def with_inner_options(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw`, and what its rotary options hold beside a scaling, as `rope_scaling.rope_theta`."""
    inner = {
        f"{name}.{key}": raw[name][key]
        for name in OPTIONS
        if isinstance(raw.get(name), dict)
        for key in ("rope_theta", "partial_rotary_factor")
        if key in raw[name]
    }
    return {**raw, **inner}


def rotary_scaling(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """`AtomConfig.rotary_scaling`; None for plain rotary positions.

    Raises:
        SnapshotError: two statements differ.
        UnsupportedModelError: a kind or an option that is not computed.
    """
    stated = {name: _scaling(name, raw) for name in OPTIONS if raw.get(name) not in (None, {})}
    if raw.get("rotary_scaling") is not None:  # AtomConfig's own name
        stated["rotary_scaling"] = dict(_options("rotary_scaling", raw))
    found = list(stated.values())
    if any(scaling != found[0] for scaling in found):
        both = ", ".join(f"{name} = {raw[name]!r}" for name in stated)
        raise SnapshotError(f"config.json contradicts itself: {both}.")
    return found[0] if found else None


def _options(name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    options = raw[name]
    if not isinstance(options, dict):
        raise SnapshotError(f"config.json says {name} = {options!r}; an object is expected.")
    return options


def _scaling(name: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    options = _options(name, raw)
    nested = [key for key, value in options.items() if isinstance(value, dict)]
    if nested:
        raise UnsupportedModelError(
            f"config.json has rotary positions of their own for {', '.join(nested)} ({name}); "
            "AtomForCausalLM computes the same ones in all layers."
        )
    kinds = {str(options[key]) for key in ("rope_type", "type") if options.get(key) is not None}
    ignored = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    rest = {
        key: value for key, value in options.items() if key not in ignored and value is not None
    }
    if len(kinds) > 1:
        raise SnapshotError(f"config.json contradicts itself: {name} = {options!r}.")
    kind = kinds.pop() if kinds else "default"
    if kind == "default":
        if rest:
            raise UnsupportedModelError(
                f"config.json says {name} = {options!r}: of plain rotary positions the options "
                f"{', '.join(rest)} are not known. If they are scaled, rope_type must say how."
            )
        return None
    original = raw.get(_ORIGINAL) if kind in ("yarn", "llama3") else None
    if original is not None and rest.setdefault(_ORIGINAL, original) != original:
        raise SnapshotError(
            f"config.json contradicts itself: {_ORIGINAL} = {original}, "
            f"{name}.{_ORIGINAL} = {rest[_ORIGINAL]}."
        )
    scaling = {"kind": kind, **rest}
    if problems := scaling_problems(scaling):
        raise UnsupportedModelError(
            f"config.json says {name} = {options!r}, which is not computed: " + "; ".join(problems)
        )
    return scaling


def rotary_dim(raw: Mapping[str, Any], head_dim: int) -> int:
    """How much of each head is rotated.

    Raises:
        SnapshotError: a value that is no fraction or no size of a head, or two that differ.
    """
    names = (*FRACTIONS, *(f"{name}.partial_rotary_factor" for name in OPTIONS))
    found = {name: raw[name] for name in names if raw.get(name) is not None}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise SnapshotError(f"config.json says {name} = {value!r}, which is no part of 1.")
    sizes = {name: int(head_dim * value) for name, value in found.items()}
    if raw.get("rotary_dim") is not None:
        sizes["rotary_dim"] = raw["rotary_dim"]
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= head_dim:
            raise SnapshotError(
                f"config.json says {name} = {raw[name]!r}, and a head has {head_dim} rows."
            )
    if len(set(sizes.values())) > 1:
        both = ", ".join(f"{name} = {raw[name]}" for name in sizes)
        raise SnapshotError(f"config.json contradicts itself: {both} of heads of {head_dim}.")
    return next(iter(sizes.values()), head_dim)


def unrotated_layers(raw: Mapping[str, Any], layers: int) -> list[int]:
    """Layers without rotary positions, counted from 0.

    SmolLM3's `no_rope_layers` has 1 for a layer with positions and 0 for one without; where it is
    left out, every `no_rope_layer_interval`th has none.

    Raises:
        SnapshotError: a list of another form.
        UnsupportedModelError: such a list in a model of another type, where it may mean otherwise.
    """
    if raw.get("unrotated_layers") is not None:  # AtomConfig's own name
        return list(raw["unrotated_layers"])
    flags = raw.get("no_rope_layers")
    if raw.get("model_type") != "smollm3":
        if flags:
            raise UnsupportedModelError(
                f"config.json says no_rope_layers = {flags!r}, whose meaning is known of the model "
                "type smollm3 only."
            )
        return []
    if flags is None:
        interval = raw.get("no_rope_layer_interval", 4)
        flags = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(flags, list) or len(flags) != layers or not set(flags) <= {0, 1}:
        raise SnapshotError(
            f"config.json says no_rope_layers = {flags!r}; {layers} numbers of 0 or 1 are expected."
        )
    return [layer for layer, flag in enumerate(flags) if not flag]


def refuse_narrow_windows(raw: Mapping[str, Any], context: int) -> None:
    """Refuse a sliding window that is shorter than the context.

    Raises:
        UnsupportedModelError: there is one, or a layer of another kind.
    """
    kinds = raw.get("layer_types") or []
    known = {"full_attention", "sliding_attention"}
    if other := set(kinds) - known:
        raise UnsupportedModelError(f"config.json has layer_types {', '.join(sorted(other))}.")
    off = raw.get("use_sliding_window") is False or set(kinds) == {"full_attention"}
    windows = {} if off else {n: raw[n] for n in WINDOWS if raw.get(n) not in _ABSENT}
    narrow = [
        f"{name} = {value!r}"
        for name, value in windows.items()
        if isinstance(value, bool) or not isinstance(value, int) or value < context
    ]
    if narrow or ("sliding_attention" in kinds and not windows):
        said = ", ".join(narrow) or f"layer_types = {kinds!r}"
        raise UnsupportedModelError(
            f"config.json says {said}, and the context is {context}: AtomForCausalLM computes "
            "attention to all of the text before a token only."
        )
