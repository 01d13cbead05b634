"""Export models of many families and write what each took to benchmarks/models.md.

`python benchmarks/models.py [NAME=SNAPSHOT...]` exports the reference checkpoint and the snapshots
that are named, then random ones that transformers makes in the shapes of well-known models, a
quarter as wide and of four layers, with the tokenizer of the reference checkpoint. Each is exported
in int8 and in float32 by the command line, one after another. Run it on a quiet machine; the page
is written anew after each export.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atom_edge.reference import checkpoint_path
from atom_edge.staging import write_file

HERE = Path(__file__).parent
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_COMMON = {"vocab_size": 4096, "initializer_range": 0.05, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = _COMMON | {"num_hidden_layers": 4, "max_position_embeddings": 2048, "pad_token_id": 0}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def _heads(hidden: int, inner: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return _LLAMA | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


# Class of the configuration, and its options.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.2-1B": (
        "Llama",
        _heads(512, 2048, 8, 2) | {"tie_word_embeddings": True, "rope_scaling": _LLAMA3_ROPE},
    ),
    "Qwen2.5-0.5B": ("Qwen2", _heads(224, 1216, 14, 2) | {"tie_word_embeddings": True}),
    "Qwen3-0.6B": (
        "Qwen3",
        _heads(256, 768, 4, 2) | {"head_dim": 128, "tie_word_embeddings": True},
    ),
    "SmolLM3-3B": ("SmolLM3", _heads(512, 2752, 4, 1) | {"tie_word_embeddings": True}),
    "Pythia-410M": ("GPTNeoX", _heads(256, 1024, 4, 4) | {"rotary_pct": 0.25}),
    "GPT-2": ("GPT2", _COMMON | {"n_embd": 192, "n_layer": 4, "n_head": 3, "n_positions": 1024}),
    "GPT-Neo (TinyStories-33M)": (
        "GPTNeo",
        _COMMON
        | {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 2048}
        | {"window_size": 256, "attention_types": [[["global", "local"], 2]]},
    ),
    "Gemma-3-270M": (
        "Gemma3Text",
        _heads(160, 512, 4, 1) | {"head_dim": 64, "sliding_window": 512},
    ),
}


@dataclass(frozen=True)
class Row:
    """What an export took.

    Attributes:
        name: of the model.
        weights: how many it has.
        quantization: `none` or `int8`.
        seconds: of the whole command.
        memory: its largest resident set, in bytes.
        summary: what it printed; the error alone where it failed.
    """

    name: str
    weights: int
    quantization: str
    seconds: float
    memory: int
    summary: dict[str, Any]

    def cells(self) -> Iterator[str]:
        """The row of the table."""
        yield self.name
        yield f"{self.weights / 1e6:.1f} M"
        yield {"none": "float32", "int8": "int8"}[self.quantization]
        yield f"{self.seconds:.0f}"
        yield f"{self.memory / 1e9:.2f}"
        if "error" in self.summary:
            yield from (self.summary["error"], *[""] * 5)
            return
        yield f"{sum(self.summary['files'].values()) / 1e6:.1f}"
        measured = self.summary["validation"]["measured"]
        yield ", ".join(one["path"] for one in measured)
        for name in ("perplexity_ratio", "mean_kl"):
            yield " / ".join(f"{_worst(one, name):.5f}" for one in measured)
        yield " / ".join(_greedy(one) for one in measured)
        yield f"{self.summary['tokens_per_second']:,.0f}"


TITLES = (
    "model",
    "weights",
    "precision",
    "seconds",
    "memory, GB",
    "bundle, MB",
    "graphs",
    "perplexity ratio",
    "mean KL, nats",
    "greedy tokens, gap",
    "tokens/s",
)
_INTRODUCTION = """\
# Exports of other families

By `python benchmarks/models.py` on {machine}, {cores} cores. Each row is one `atom-edge export`
with all its checks: seconds and largest resident set of the whole command, size of the bundle, and
for each graph the larger of prefill's and decode's perplexity over PyTorch's and mean KL
divergence. Greedy text of held-out prompts: how many of its tokens PyTorch finds likeliest after
the same tokens before, and the largest gap between the logits of the likeliest and of the one that
was taken. Tokens/s is greedy decoding in a session. Where it says "shape", the model is random, a
quarter as wide as the one that is named and of four layers: its predictions are nearly flat, and
int8 turns more of them than of a trained model's.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "snapshots", type=_named, nargs="*", help="NAME=FOLDER of models to begin with"
    )
    parser.add_argument("--output", type=Path, default=HERE / "models.md")
    parser.add_argument("--only", nargs="*", help="shapes, all if omitted", choices=SHAPES)
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folders = {} if arguments.only else {"Atom 3.4M": checkpoint_path()}
        folders |= dict(arguments.snapshots)
        for name in SHAPES if arguments.only is None else arguments.only:
            folders[f"{name} shape"] = random_snapshot(Path(place) / "snapshots" / name, name)
        for name, folder in folders.items():
            for quantization in ("int8", "none"):
                rows.append(export(name, folder, quantization, Path(place) / "bundle"))
                print(" | ".join(rows[-1].cells()), flush=True)
                write_file(arguments.output, table(rows).encode())


def _named(argument: str) -> tuple[str, Path]:
    name, _, folder = argument.rpartition("=")
    return name or Path(folder).resolve().name, Path(folder)


def random_snapshot(folder: Path, shape: str) -> Path:
    """Save a random model of one of `SHAPES`."""
    import torch
    import transformers

    torch.manual_seed(0)
    family, options = SHAPES[shape]
    config = getattr(transformers, f"{family}Config")(**options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(checkpoint_path() / name, folder / name)
    return folder


def export(name: str, snapshot: Path, quantization: str, bundle: Path) -> Row:
    """Run the command line, as anybody would."""
    command = [sys.executable, "-m", "atom_edge.cli", "export", str(snapshot), "-o", str(bundle)]
    command += ["--quantize", quantization, "--force", "--json"]
    start = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
    ):
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        stdout.seek(0)
        stderr.seek(0)
        if child.returncode == 0:
            summary = json.load(stdout)
        else:
            summary = {"error": stderr.read().strip().replace("\n", " ")}
    return Row(name, weights_in(snapshot), quantization, seconds, used.ru_maxrss * 1024, summary)


def weights_in(snapshot: Path) -> int:
    """How many numbers the safetensors files hold."""
    from safetensors import safe_open

    count = 0
    for file in snapshot.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                count += size
    return count


def table(rows: list[Row]) -> str:
    """The page."""
    lines = [" | ".join(TITLES), " | ".join(["---"] * 3 + ["---:"] * (len(TITLES) - 3))]
    lines += [" | ".join(row.cells()) for row in rows]
    introduction = _INTRODUCTION.format(machine=_processor(), cores=os.cpu_count())
    return introduction + "".join(f"| {line} |\n" for line in lines)


def _greedy(measured: dict[str, Any]) -> str:
    figures = {figure["name"]: figure["value"] for figure in measured["figures"]}
    return f"{figures['greedy_agreement']:.1%}, {figures['greedy_gap']:.2g}"


def _worst(measured: dict[str, Any], name: str) -> float:
    figures = {figure["name"]: figure["value"] for figure in measured["figures"]}
    return max(figures[f"{name}.prefill"], figures[f"{name}.decode"])


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
