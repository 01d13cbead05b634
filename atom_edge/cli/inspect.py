"""`atom-edge inspect`: everything that a bundle says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from atom_edge.bundle import Bundle
    from atom_edge.onnx_graph import Graph

_LARGEST = 5


def inspect_command(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle; without it, the reference bundle.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify a bundle and show its files, graphs, sizes, validation and provenance.

    Needs none of the extras, and runs nothing of the bundle.
    """
    from atom_edge.border import format_json
    from atom_edge.bundle import open_bundle
    from atom_edge.onnx_graph import parse_graph
    from atom_edge.reference import bundle_path

    opened = open_bundle(bundle_path() if bundle is None else bundle)
    graphs = {
        str(role): parse_graph(opened.read_graph(role), str(opened.graph(role)))
        for role in opened.roles
    }
    if as_json:
        typer.echo(format_json(_as_dict(opened, graphs)).decode(), nl=False)
    else:
        _print(opened, graphs)


def _as_dict(bundle: Bundle, graphs: dict[str, Graph]) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "manifest": bundle.manifest,
        "graphs": {role: _graph_as_dict(graph) for role, graph in graphs.items()},
    }


def _graph_as_dict(graph: Graph) -> dict[str, Any]:
    return {
        "nodes": len(graph.nodes),
        "opsets": graph.opsets,
        "operators": graph.operators,
        "inputs": [value._asdict() for value in graph.inputs],
        "outputs": [value._asdict() for value in graph.outputs],
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "bytes": tensor.bytes,
            }
            for tensor in graph.tensors
        ],
    }


def _print(bundle: Bundle, graphs: dict[str, Graph]) -> None:
    from rich.console import Console

    from atom_edge.cli.figures import figure_table

    console = Console(highlight=False, soft_wrap=True)
    console.print(_manifest_table(bundle))
    console.print(_file_table(bundle))
    for role, graph in graphs.items():
        _print_graph(console, role, graph)
    if bundle.manifest.validation.measured:
        console.print(figure_table(bundle.manifest.validation, "validation against PyTorch"))


def _manifest_table(bundle: Bundle) -> Any:
    import msgspec
    from rich.table import Table

    table = Table(title=_text(f"{bundle.path}: verified"), title_justify="left", show_header=False)
    for key in ("format_version", "target", "quantization", "scheme", "opset", "context_length"):
        table.add_row(key, _text(getattr(bundle.manifest, key)))
    for title in ("source", "created_by"):
        table.add_section()
        for key, value in msgspec.to_builtins(getattr(bundle.manifest, title)).items():
            table.add_row(_text(f"{title}: {key}"), _text(_plain(value)))
    return table


def _file_table(bundle: Bundle) -> Any:
    from rich.table import Table

    table = Table("file", "bytes", "sha256", title="files", title_justify="left")
    table.columns[1].justify = "right"
    for name, entry in bundle.manifest.files.items():
        table.add_row(_text(name), f"{entry.bytes:,}", entry.sha256[:16])
    return table


def _print_graph(console: Console, role: str, graph: Graph) -> None:
    from rich.table import Table

    stored = sum(tensor.bytes for tensor in graph.tensors)
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())
    title = (
        f"graph '{role}': {len(graph.nodes)} nodes, {stored:,} bytes of tensors, opsets {opsets}"
    )
    table = Table("", "name", "value", title=_text(title), title_justify="left")
    for label, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            table.add_row(
                label, _text(value.name), _text(f"{value.dtype} {list(value.shape or ())}")
            )
        table.add_section()
    for operator, count in graph.operators.items():
        table.add_row("operator", _text(operator), str(count))
    table.add_section()
    for tensor in graph.tensors[:_LARGEST]:
        shape = f"{tensor.dtype} {list(tensor.shape)}, {tensor.bytes:,} bytes"
        table.add_row("tensor", _text(tensor.name), _text(shape))
    if rest := graph.tensors[_LARGEST:]:
        size = sum(tensor.bytes for tensor in rest)
        table.add_row("tensor", f"{len(rest)} smaller ones", f"{size:,} bytes")
    console.print(table)


def _text(value: object) -> Any:
    """What a bundle says, as rich text without markup or control characters."""
    from rich.text import Text

    from atom_edge.printing import printable

    return Text(printable(str(value), keep="\n"))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(map(_plain, value))
    return str(value)
