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
    everything: Annotated[
        bool, typer.Option("--all", help="Also show hashes, provenance, inputs, tensors.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify a bundle and show its files, graphs, sizes and validation.

    Needs none of the extras, and runs nothing of the bundle.
    """
    from atom_edge.border import format_json
    from atom_edge.bundle import open_bundle
    from atom_edge.hub import find_bundle
    from atom_edge.onnx_graph import parse_graph

    opened = open_bundle(find_bundle(bundle))
    graphs = {
        str(role): parse_graph(opened.read_graph(role), str(opened.graph(role)))
        for role in opened.roles
    }
    if as_json:
        typer.echo(format_json(_as_dict(opened, graphs)).decode(), nl=False)
    else:
        _print(opened, graphs, everything)


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


def _print(bundle: Bundle, graphs: dict[str, Graph], everything: bool) -> None:
    from rich.console import Console

    from atom_edge.cli.figures import figure_table

    console = Console(highlight=False, soft_wrap=True)
    console.print(_manifest_table(bundle, everything))
    console.print(_file_table(bundle, everything))
    if everything:
        for role, graph in graphs.items():
            _print_graph(console, role, graph)
    else:
        console.print(_graph_table(graphs))
    if bundle.manifest.validation.measured:
        validation = bundle.manifest.validation
        console.print(figure_table(validation, "validation against PyTorch", everything))


def _manifest_table(bundle: Bundle, everything: bool) -> Any:
    import msgspec
    from rich.table import Table

    manifest = bundle.manifest
    table = Table(title=_text(f"{bundle.path}: verified"), title_justify="left", show_header=False)
    for key in ("format_version", "target", "quantization", "scheme", "opset", "context_length"):
        table.add_row(key, _text(getattr(manifest, key)))
    if not everything:
        table.add_row("source", _text(manifest.source.repo))
        return table
    for title in ("source", "created_by"):
        table.add_section()
        for key, value in msgspec.to_builtins(getattr(manifest, title)).items():
            if value is not None:
                table.add_row(_text(f"{title}: {key}"), _text(_plain(value)))
    return table


def _file_table(bundle: Bundle, everything: bool) -> Any:
    from rich.table import Table

    hashes = ("sha256",) if everything else ()
    table = Table("file", "bytes", *hashes, title="files", title_justify="left")
    table.columns[1].justify = "right"
    for name, entry in bundle.manifest.files.items():
        table.add_row(_text(name), f"{entry.bytes:,}", *([entry.sha256] if everything else []))
    return table


def _graph_table(graphs: dict[str, Graph]) -> Any:
    from rich.table import Table

    table = Table("graph", "nodes", "bytes of tensors", "operators", title_justify="left")
    table.title = "graphs"
    for column in table.columns[1:3]:
        column.justify = "right"
    for role, graph in graphs.items():
        names = list(graph.operators)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        table.add_row(
            role,
            str(len(graph.nodes)),
            f"{sum(tensor.bytes for tensor in graph.tensors):,}",
            _text(", ".join(names[:3]) + more),
        )
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
