"""`atom-edge export`: a model folder or hub id becomes a validated bundle."""

from __future__ import annotations

import enum
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atom_edge.cli.limits import MaxKl, MaxPerplexityRatio, Validate

if TYPE_CHECKING:
    from atom_edge.exporters.export import ExportResult


class Quantize(enum.StrEnum):
    """Values of `--quantize`."""

    NONE = "none"
    INT8 = "int8"


class Target(enum.StrEnum):
    """Values of `--target`."""

    CPU = "cpu"
    NATIVE = "native"
    CUDA = "cuda"
    WEB = "web"


def export_command(
    snapshot: Annotated[
        str | None,
        typer.Argument(
            help="A Hugging Face model folder or hub id; without it, the reference checkpoint.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write the bundle to.")
    ] = Path("atom-onnx"),
    quantize: Annotated[Quantize, typer.Option(help="8-bit weights, or none.")] = Quantize.NONE,
    target: Annotated[
        Target,
        typer.Option(
            help="What it is to run on: any CPU; CPUs with the native library alone, which makes "
            "the smallest bundle; GPUs by CUDA in float16; or browsers."
        ),
    ] = Target.CPU,
    max_perplexity_ratio: MaxPerplexityRatio = None,
    max_kl: MaxKl = None,
    validate: Validate = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Also run the snapshot's own model code, and compare with it.",
        ),
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.")
    ] = None,
    local_files_only: Annotated[
        bool, typer.Option("--local-files-only", help="Take hub files from the cache only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Export a PyTorch checkpoint to an ONNX bundle, checked against PyTorch.

    The bundle is written only if it passes. In float32 a graph must be as near to the model in
    float64 as PyTorch in float32 is, and greedy text may part at near ties only. In int8 perplexity
    and KL divergence must stay within their limits, in prefill and in decode; the fastest scheme
    that holds is taken, and the table says what the others would have cost. Graphs for CUDA are
    checked on a GPU where there is one, and else on the CPU.
    """
    from atom_edge.bundle import check_destination
    from atom_edge.cli.extras import needs_extra
    from atom_edge.cli.figures import show_figures_of_failure
    from atom_edge.cli.steps import show_steps
    from atom_edge.hub import locate
    from atom_edge.reference import NAME, checkpoint_path

    # Before torch is imported, which takes seconds.
    check_destination(output, force)
    found = locate(
        snapshot or checkpoint_path(),
        revision=revision,
        local_files_only=local_files_only,
        with_code=trust_remote_code,
    )
    with needs_extra("atom-edge export", "export"):
        from atom_edge.checkpoint import open_snapshot
        from atom_edge.exporters.export import export
        from atom_edge.exporters.graphs import forms_of
        from atom_edge.exporters.plan import OPEN, SPEED, plan_of_export
        from atom_edge.exporters.threads import leave_cores_free

    leave_cores_free()
    limits: dict[str, Any] = {"max_perplexity_ratio": max_perplexity_ratio, "max_kl": max_kl}
    limits["effort"] = validate and validate.value
    plan = plan_of_export(
        forms_of(target.value, quantize.value), validate.value if validate else "quick"
    )
    with show_figures_of_failure(as_json), show_steps(as_json, plan) as step:
        step(OPEN)
        opened = open_snapshot(found, trust_remote_code=trust_remote_code)
        if snapshot is None:
            opened.provenance["repo"] = NAME
        result = export(
            opened,
            output,
            quantization=quantize.value,
            target=target.value,
            force=force,
            progress=step,
            **{name: value for name, value in limits.items() if value is not None},
        )
        step(SPEED)
        speed = _tokens_per_second(output)
    if as_json:
        _print_json(result, speed)
    else:
        _print_table(result, speed)


def _tokens_per_second(bundle: Path) -> float:
    from atom_edge import AtomSession

    session = AtomSession.from_pretrained(bundle, provider="auto")
    session.generate("The", max_new_tokens=8)
    return max(session.generate("The", max_new_tokens=96).generation_tps for _ in range(3))


def _print_json(result: ExportResult, speed: float) -> None:
    from atom_edge.border import format_json

    manifest = result.manifest
    summary: dict[str, Any] = {
        "output": str(result.path),
        "files": {name: entry.bytes for name, entry in manifest.files.items()},
        "quantize": manifest.quantization,
        "validation": manifest.validation,
        "nodes": manifest.nodes,
        "tokens_per_second": round(speed, 1),
        "source": manifest.source,
    }
    typer.echo(format_json(summary).decode(), nl=False)


def _print_table(result: ExportResult, speed: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from atom_edge.cli.figures import figure_table

    manifest = result.manifest
    table = Table(title=f"{result.path}  ({manifest.quantization})", title_justify="left")
    table.add_column("file or figure")
    table.add_column("value", justify="right")
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.bytes:,} bytes")
    table.add_section()
    for role, nodes in manifest.nodes.items():
        table.add_row(f"nodes in graph '{role}'", str(nodes))
    table.add_row("decode on this machine", f"{speed:,.0f} tokens/s")
    console = Console()
    console.print(table)
    console.print(figure_table(manifest.validation, "validation against PyTorch: passed"))
    path = shlex.quote(str(result.path))
    console.print(f"All figures: atom-edge inspect --all {path}", highlight=False)
    console.print(f"Talk to it:  atom-edge chat {path}", highlight=False)
