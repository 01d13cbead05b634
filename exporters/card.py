"""The model card of a bundle: what it is, where it comes from, what was measured."""

from __future__ import annotations

import json

from atom_edge.manifest import Figure, Manifest, Measured, Source

_CARD = """\
---
library_name: onnx
pipeline_tag: text-generation
tags: [onnx, onnxruntime, atom-edge]
{origin_fields}---

# {name}, exported by atom-edge

An ONNX bundle ({quantization}: {scheme}) made from {origin} by atom-edge {version}.

    atom-edge chat .
    atom-edge generate "The water cycle is" --bundle .

In Python, without torch:

    from atom_edge import AtomSession

    print(AtomSession.from_pretrained(".").generate("The water cycle is").text)

## Validation against PyTorch

Measured at export, on held-out text; `atom-edge validate .` repeats it.

{tables}
Standard errors in parentheses. Greedy agreement is the share of the tokens of greedy texts that
PyTorch, after the same text, finds likeliest too.
{left_out}"""

_COLUMNS = ("tokens", "perplexity_ratio", "mean_kl", "same_top_token")


def model_card(manifest: Manifest) -> str:
    """The card of a bundle, from its manifest before it is sealed."""
    source = manifest.source
    revision = f" at revision {source.revision}" if source.revision else ""
    return _CARD.format(
        origin_fields=_front_matter(source),
        name=source.repo or "A model",
        quantization=manifest.quantization,
        scheme=manifest.scheme,
        origin=f"`{source.repo or 'a local snapshot'}`{revision}",
        version=manifest.created_by["atom-edge"],
        tables="\n".join(map(_table, manifest.validation.measured)),
        left_out="".join(map(_left_out, manifest.validation.left_out)),
    )


def _front_matter(source: Source) -> str:
    """Licence and base model, as the hub reads them; JSON is YAML."""
    fields = {
        "license": source.license,
        "license_name": source.license_name,
        "license_link": source.license_link,
        "base_model": list(source.base_model),
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items() if value)


def _table(measured: Measured) -> str:
    agreement = _figure(measured["greedy_agreement"])
    titles = " | ".join(column.replace("_", " ").replace("kl", "KL") for column in _COLUMNS)
    lines = [
        f"`{measured.path}` ({measured.scheme}), greedy agreement {agreement}:",
        "",
        f"| | {titles} |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for part in ("prefill", "decode"):
        cells = [_figure(measured[f"{column}.{part}"]) for column in _COLUMNS]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _left_out(measured: Measured) -> str:
    return f"\nNot taken: `{measured.path}` as {measured.scheme}, whose {measured.failure}.\n"


def _figure(figure: Figure) -> str:
    assert figure.value is not None  # what does not hold is not in a bundle
    if figure.standard_error is not None:
        return f"{figure.value:.5g} ({figure.standard_error:.2g})"
    return f"{figure.value:,.5g}" if figure.value % 1 else f"{figure.value:,.0f}"
