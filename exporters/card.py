"""The model card of a bundle: what it is, where it comes from, what was measured."""

from __future__ import annotations

from typing import Any

from atom_edge.manifest import Manifest

_CARD = """\
---
library_name: onnx
pipeline_tag: text-generation
tags: [onnx, onnxruntime, atom-edge]
---

# {name}, exported by atom-edge

An ONNX bundle ({quantization}: {scheme}) made from {origin} by atom-edge {version}.

    atom-edge chat .
    atom-edge generate "The water cycle is" --bundle .

In Python, without torch:

    from atom_edge import AtomSession

    print(AtomSession.from_pretrained(".").generate("The water cycle is").text)

## Validation against PyTorch

Measured at export, on held-out text; `atom-edge validate .` repeats it.

| | prefill | decode |
|---|---|---|
{rows}

Largest logit difference {max_logit_diff:.3g}; greedy tokens before the first difference
{greedy_match:.1%}. Standard errors in parentheses.
"""

_ROWS = (
    ("tokens", "tokens"),
    ("perplexity", "perplexity"),
    ("PyTorch's perplexity", "reference_perplexity"),
    ("perplexity ratio", "perplexity_ratio"),
    ("mean KL, nats a token", "mean_kl"),
    ("same top token", "same_top_token"),
)


def model_card(manifest: Manifest) -> str:
    """The card of a bundle, from its manifest before it is sealed."""
    validation, source = manifest.validation, manifest.source
    prefill, decode = validation["prefill"], validation["decode"]
    rows = [f"| {name} | {_figure(prefill[key])} | {_figure(decode[key])} |" for name, key in _ROWS]
    revision = f" at revision {source.revision}" if source.revision else ""
    return _CARD.format(
        name=source.repo or "A model",
        quantization=manifest.quantization,
        scheme=manifest.scheme,
        origin=f"`{source.repo or 'a local snapshot'}`{revision}",
        version=manifest.created_by["atom-edge"],
        rows="\n".join(rows),
        max_logit_diff=validation["max_logit_diff"],
        greedy_match=validation["greedy_match"],
    )


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.5g} ({value['standard_error']:.2g})"
    return f"{value:,}"
