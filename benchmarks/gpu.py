"""Measure bundles for CUDA against PyTorch on one GPU: `python benchmarks/gpu.py FP16 INT8`.

FP16 and INT8 are bundles of one snapshot, exported with `--target cuda` and `--quantize none` and
`int8`. Writes results-gpu.md, and prints the same as JSON. Rounds are interleaved; figures are
medians. `--tiny` is a rehearsal on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from gpu_rates import rates, rates_table

from atom_edge import AtomSession
from atom_edge.bundle import open_bundle
from atom_edge.modeling import AtomForCausalLM
from atom_edge.reference import checkpoint_path
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.interface import Device
from atom_edge.runtimes.options import Options
from atom_edge.staging import write_file
from atom_edge.tokenizer import Tokenizer

PROMPTS = (
    "The water cycle is",
    "Once upon a time, a little girl",
    "The capital of France is",
    "A volcano is",
    "The dog ran across the field and",
    "Plants need sunlight because",
    "The old man sat by the fire and",
    "In 1969, astronauts",
    "To make a cup of tea, first",
    "The school was built in",
)
# Logits in float16 have eleven bits: below this, two tokens are as likely as each other.
NEAR_TIE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fp16", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--snapshot", type=Path, default=checkpoint_path())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results-gpu.md")
    arguments = parser.parse_args()
    tiny: bool = arguments.tiny
    bench = Bench(arguments.snapshot, arguments.fp16, arguments.int8, "cpu" if tiny else "cuda")
    if tiny:
        arguments.rounds = 2
    tokens, batch = (8, 4) if tiny else (200, 256)

    results: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds}
    note("greedy text against PyTorch")
    results["text"] = bench.compare_texts(tokens)
    note("one sequence")
    results["decode_ms"] = race(bench.decoders(tokens), arguments.rounds, tokens)
    note(f"{batch} sequences")
    steps = race(bench.batches(batch, tokens), arguments.rounds, tokens)
    results["batch"] = {name: batch / step * 1000 for name, step in steps.items()}
    note("sampling")
    sizes = (4,) if tiny else (64, 256, 1024, 2048, 4096)
    results["rates"] = {
        size: rates(bench.graphs, bench.sessions, bench.prompts, size, tokens) for size in sizes
    }
    note("prompts")
    results["prefill_ms"] = {
        length: race(bench.prefills(length), arguments.rounds, 1)
        for length in ((8,) if tiny else (64, 256, 511))
    }
    print(json.dumps(results, indent=2))
    write_file(arguments.out, markdown(results, tokens, batch).encode())


def machine() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {"gpu": gpu, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__}


def race(contestants: dict[str, Callable[[], None]], rounds: int, tokens: int) -> dict[str, float]:
    """Median milliseconds a token of each; the first of the interleaved rounds warms up."""
    seconds = defaultdict(list)
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = perf_counter()
            run()
            if turn:
                seconds[name].append(perf_counter() - start)
    return {name: statistics.median(times) / tokens * 1000 for name, times in seconds.items()}


class Bench:
    """What is compared: sessions over both bundles, and the PyTorch model, on one device."""

    def __init__(self, snapshot: Path, fp16: Path, int8: Path, device: Device) -> None:
        self.device, self.fp16 = device, fp16
        tokenizer = Tokenizer.from_file(snapshot / "tokenizer.json")
        self.prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
        dtype = torch.float16 if device == "cuda" else torch.float32
        self.model = AtomForCausalLM.from_pretrained(snapshot, dtype=dtype).to(device).eval()
        self.graphs = {
            name: CudaEngine(open_bundle(path).graph("cuda"), device, 512)
            for name, path in (("fp16", fp16), ("int8", int8))
        }
        self.sessions = {
            name: AtomSession.from_pretrained(path, provider="auto" if device == "cpu" else "cuda")
            for name, path in (("fp16", fp16), ("int8", int8))
        }

    @torch.no_grad()
    def compare_texts(self, tokens: int) -> list[dict[str, Any]]:
        """Ours and PyTorch's greedy tokens of each prompt, up to where they part."""
        found = []
        for prompt in self.prompts:
            theirs = self._pytorch(torch.tensor([prompt]), tokens)[0].tolist()
            cache = self.graphs["fp16"].new_cache()
            ours = [int(cache.append(np.array([prompt]))[0].argmax())]
            while len(ours) < tokens:
                ours.append(int(cache.step_greedily(np.array(ours[-1:]))[0]))
            same = next((i for i in range(tokens) if ours[i] != theirs[i]), tokens)
            entry: dict[str, Any] = {"prompt": prompt, "same": same}
            if same < tokens:
                ids = torch.tensor([prompt + theirs[:same]]).to(self.device)
                logits = self.model(ids).logits[0, -1].float()
                entry["gap"] = float(logits[theirs[same]] - logits[ours[same]])
            found.append(entry)
        return found

    def decoders(self, tokens: int) -> dict[str, Callable[[], None]]:
        """Continue one prompt by `tokens` tokens, each way."""
        prompt = self.prompts[0]

        def session(name: str) -> Callable[[], None]:
            options: Options = {"max_new_tokens": tokens, "temperature": 0.0}

            def run() -> None:
                for _ in self.sessions[name].stream(prompt, **options):
                    pass

            return run

        def on_device(name: str) -> Callable[[], None]:
            cache = self.graphs[name].new_cache()

            def run() -> None:
                cache.lengths[:] = 0
                cache.append(np.array([prompt]))
                for _ in range(tokens - 1):
                    cache.step_greedily(None)

            return run

        names = ("fp16", "int8")
        return {
            **{f"AtomSession, {name}": session(name) for name in names},
            **{f"tokens left on the device, {name}": on_device(name) for name in names},
            "transformers generate, fp16": lambda: self._generate(1, tokens),
            **self._genai(tokens),
        }

    def _genai(self, tokens: int) -> dict[str, Callable[[], None]]:
        """onnxruntime-genai over the bundle's portable graph, in float32, where it is installed.

        Its own graphs in float16 cannot be had: its model builder does not know XSA.
        """
        try:
            import onnxruntime_genai as og
        except ImportError:
            return {}
        config = og.Config(str(self.fp16))
        if self.device == "cuda":
            config.clear_providers()
            config.append_provider("cuda")
        model = og.Model(config)
        length = len(self.prompts[0]) + tokens
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=length, min_length=length)

        def run() -> None:
            generator = og.Generator(model, parameters)
            generator.append_tokens([self.prompts[0]])
            for _ in range(tokens):
                generator.generate_next_token()

        return {"onnxruntime-genai, portable graph, fp32": run}

    def batches(self, size: int, tokens: int) -> dict[str, Callable[[], None]]:
        """Continue `size` prompts by `tokens` tokens each, each way."""
        prompts = [self.prompts[row % len(self.prompts)] for row in range(size)]
        counts = np.array([len(prompt) for prompt in prompts])
        ids = np.zeros((size, counts.max()), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt

        def ours(name: str) -> Callable[[], None]:
            cache = self.graphs[name].new_cache(size)

            def run() -> None:
                cache.lengths[:] = 0
                likeliest = cache.append(ids, counts).argmax(axis=1)
                cache.step_greedily(likeliest)
                for _ in range(tokens - 2):
                    cache.step_greedily(None)

            return run

        return {
            "tokens left on the device, fp16": ours("fp16"),
            "tokens left on the device, int8": ours("int8"),
            "transformers generate, fp16": lambda: self._generate(size, tokens),
        }

    def prefills(self, length: int) -> dict[str, Callable[[], None]]:
        """Run a prompt of `length` tokens to the logits of the next, each way."""
        ids = np.array([(self.prompts[1] * length)[:length]])
        on_device = torch.from_numpy(ids).to(self.device)

        def ours(name: str) -> Callable[[], None]:
            cache = self.graphs[name].new_cache()

            def run() -> None:
                cache.lengths[:] = 0
                cache.append(ids)

            return run

        @torch.no_grad()
        def theirs() -> None:
            self.model(on_device).logits[0, -1].float().cpu()

        return {
            "atom-edge, fp16": ours("fp16"),
            "atom-edge, int8": ours("int8"),
            "PyTorch, fp16": theirs,
        }

    def _generate(self, size: int, tokens: int) -> None:
        self._pytorch(torch.tensor([self.prompts[0]] * size), tokens).cpu()

    @torch.no_grad()
    def _pytorch(self, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        ids = ids.to(self.device)
        whole = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        return whole[:, ids.shape[1] :]


def markdown(results: dict[str, Any], tokens: int, batch: int) -> str:
    """The results as results.md holds them."""
    made = results["machine"]
    equal = sum(text["same"] == tokens for text in results["text"])
    parted = [
        f"one parts at token {text['same']}, where PyTorch's own logits are {text['gap']:.3f} apart"
        + ("" if text["gap"] <= NEAR_TIE else " (**no near tie**)")
        for text in results["text"]
        if text["same"] < tokens
    ]
    lines = [
        "# CUDA",
        "",
        f"{made['gpu']}, onnxruntime-gpu {made['onnxruntime']}, torch {made['torch']}; medians of "
        f"{results['rounds']} interleaved rounds.",
        "",
        f"Greedy text of ten prompts, {tokens} tokens each, against PyTorch in float16 on the same "
        "device: " + "; ".join([f"{equal} of {len(results['text'])} are equal", *parted]) + ".",
        "",
        f"| one sequence, {tokens} tokens | ms a token |",
        "|---|---:|",
        *(f"| {name} | {ms:.3f} |" for name, ms in results["decode_ms"].items()),
        "",
        f"| {batch} sequences, {tokens} tokens each | tokens a second |",
        "|---|---:|",
        *(f"| {name} | {rate:,.0f} |" for name, rate in results["batch"].items()),
        "",
        *rates_table(results["rates"]),
        "",
        "| prompt to logits, ms | "
        + " | ".join(f"{n} tokens" for n in results["prefill_ms"])
        + " |",
        "|---|" + "---:|" * len(results["prefill_ms"]),
    ]
    for name in next(iter(results["prefill_ms"].values())):
        cells = [f"{row[name]:.2f}" for row in results["prefill_ms"].values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    decode = results["decode_ms"]["AtomSession, fp16"]
    met = "met" if decode <= 0.45 else "**missed**"
    lines += ["", f"Target: at most 0.45 ms a token for one sequence: {decode:.3f} ms, {met}.", ""]
    return "\n".join(lines)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
