"""The results as a page: `results.md`, with a chart, and `results.json`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from peers import OURS
from targets import Target, targets

from atom_edge.chart import Bar, draw_chart
from atom_edge.staging import write_file

# Made apart, on other machines: by `arm_instructions.py` and `gpu.py`.
APART = [Path(__file__).parent / name for name in ("results-arm.md", "results-gpu.md")]


def write(results: dict[str, Any], out: Path) -> None:
    """Write the page, its chart and the numbers into the folder `out`."""
    results["machine"] = machine()
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "results.json", f"{json.dumps(results, indent=2)}\n".encode())
    rates = {name: peer["threads_1"]["decode_tps"] for name, peer in results["peers"].items()}
    bars = [
        Bar(name, rate, highlighted=name == OURS)
        for name, rate in sorted(rates.items(), key=lambda item: -item[1])
    ]
    draw_chart("Decode, batch 1, 1 thread", "tokens a second", bars, out / "decode.svg")
    write_file(out / "results.md", page(results).encode())


def machine() -> dict[str, str]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    kernels = {"avx2", "avx_vnni", "avx512_vnni"} & set(flags[1].split() if flags else ())
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": f"{model[1] if model else platform.processor()} ({', '.join(sorted(kernels))})",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
    }


def page(results: dict[str, Any]) -> str:
    """The whole page in Markdown."""
    here = results["machine"]
    peers = results["peers"]
    lines = [
        "# Benchmarks",
        "",
        f"{here['date']}, {here['cpu']}, {here['cores']} cores, Python {here['python']}, "
        f"onnxruntime {here['onnxruntime']}. `python benchmarks/run.py` makes this page.",
        "",
        "Every figure is the median of interleaved rounds "
        f"({results['rounds']} of them); ratios are medians of the ratios within a round, "
        "ours over the peer's. The peers run a plain Llama of the same shape, since none can "
        "express XSA; ours runs the reference model with it, through `AtomSession`.",
        "",
        "![Decode](decode.svg)",
        "",
    ]
    for threads in (1, 2):
        lines += _race(peers, f"threads_{threads}", f"{threads} thread{'s' * (threads > 1)}")
    lines += [
        "## Cold start",
        "",
        "A Python process that imports, loads and makes one token.",
        "",
        "| | seconds |",
        "|---|---:|",
        *(f"| {name} | {peer['cold_start_s']:.2f} |" for name, peer in peers.items()),
        f"| `atom-edge generate -n 1` | {results['command_start_s']:.2f} |",
        "",
        "## Batches",
        "",
        "`generate_batch` on 1 thread, tokens a second of all sequences together.",
        "",
        "| batch | tokens/s | over batch 1 |",
        "|---:|---:|---:|",
        *(
            f"| {size} | {rate:,.0f} | {rate / results['batch']['1']:.2f} |"
            for size, rate in results["batch"].items()
        ),
        "",
        "## What Python adds",
        "",
        "| | microseconds a token | over bare steps of the operator |",
        "|---|---:|---:|",
        *(
            f"| {name} | {time:.1f} | {time / results['overhead']['bare'] - 1:+.1%} |"
            for name, time in results["overhead"].items()
        ),
        "",
        *_soak(results["soak"]),
        *_quality(results["quality"]),
        "## Targets",
        "",
        "| what | target | measured | met |",
        "|---|---:|---:|---|",
        *(f"| {t.what} | {t.wanted} | {t.measured} | {_met(t)} |" for t in targets(results)),
        "",
        *(file.read_text() for file in APART),
    ]
    return "\n".join(lines)


def _race(peers: dict[str, Any], key: str, title: str) -> list[str]:
    rows = []
    for name, peer in peers.items():
        f = peer[key]
        rows.append(
            f"| {name} | {f['decode_tps']:,.0f} | {f['decode_ratio']:.2f} | {f['first_ms']:.1f} "
            f"| {f['first_ratio']:.2f} | {f['peak_mb']:.0f} |"
        )
    return [
        f"## Decode and time to first token, {title}",
        "",
        "64-token prompt and 128 tokens, greedy; first token of a 256-token prompt.",
        "",
        "| | decode, tokens/s | ours / peer | first token, ms | ours / peer | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]


def _soak(soak: dict[str, float]) -> list[str]:
    return [
        "## Soak",
        "",
        f"One chat of {soak['tokens']:,.0f} sampled tokens: {soak['tps_first_fifth']:,.0f} "
        f"tokens/s in its first fifth and {soak['tps_last_fifth']:,.0f} in its last; "
        f"{soak['mb_after_first_fifth']:.1f} MB after the first fifth, {soak['mb_at_end']:.1f} MB "
        f"at the end, {soak['peak_mb']:.1f} MB at most.",
        "",
    ]


def _quality(validation: dict[str, Any]) -> list[str]:
    rows = []
    for measured in validation["measured"]:
        values = {figure["name"]: figure["value"] for figure in measured["figures"]}
        rows += [
            f"| `{measured['path']}`, {part}: {measured['scheme']} "
            f"| {values[f'perplexity_ratio.{part}']:.4f} | {values[f'mean_kl.{part}']:.5f} "
            f"| {values[f'same_top_token.{part}']:.3f} |"
            for part in ("prefill", "decode")
        ]
    return [
        "## Quality of int8",
        "",
        "Against the float32 PyTorch model, as the export measured it on held-out text.",
        "",
        "| | perplexity ratio | mean KL | same top token |",
        "|---|---:|---:|---:|",
        *rows,
        "",
    ]


def _met(target: Target) -> str:
    return "yes" if target.met else "**no**"
