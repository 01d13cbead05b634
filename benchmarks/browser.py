"""Time to the first token and tokens a second in a browser, beside transformers.js.

    npm ci --prefix runtimes/web && npm install --ignore-scripts --prefix tests/foreign
    python benchmarks/browser.py BUNDLE > benchmarks/results-web.md

BUNDLE was exported with `--target web`. Both run it in one headless Chromium, in WebAssembly on one
thread, and take turns; its end-of-sequence tokens are taken away for both, for replies of the same
length. Each has a new page, and a second one for the first reply of all.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, WARM_UP, TOKENS = 15, 10, 128
PROMPT = "The water cycle is the movement of water between the ground, the air and the sea. " * 8
PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")

# Each defines open() and reply(tokens), which gives the tokens of the prompt and of the reply.
OURS = """
const { AtomSession } = await import("/package/atom-edge.js");
globalThis.open = async () => {
  const onnxruntime = "/ours/";
  const session = await AtomSession.open("/models/bundle", { onnxruntime });
  globalThis.reply = async (prompt, tokens) => {
    const options = { max_new_tokens: tokens, temperature: 0, repetition_penalty: 1 };
    const { prompt_tokens, generation_tokens } = await session.generate(prompt, options);
    return [prompt_tokens, generation_tokens];
  };
};
"""
THEIRS = """
const map = document.createElement("script");
map.type = "importmap";
map.textContent = JSON.stringify({ imports: {
  "onnxruntime-web/webgpu": "/theirs/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
  "onnxruntime-common": "/theirs/onnxruntime-common/dist/esm/index.js",
} });
document.head.append(map);
const { AutoModelForCausalLM, AutoTokenizer, env } =
  await import("/theirs/@huggingface/transformers/dist/transformers.web.min.js");
const local = { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/models/" };
const wasm = { wasmPaths: "/theirs/onnxruntime-web/dist/", numThreads: 1 };
Object.assign(env, local);
Object.assign(env.backends.onnx.wasm, wasm);
globalThis.open = async () => {
  const tokenizer = await AutoTokenizer.from_pretrained("bundle");
  const how = { dtype: DTYPE, device: "wasm" };
  const model = await AutoModelForCausalLM.from_pretrained("bundle", how);
  globalThis.reply = async (prompt, tokens) => {
    const inputs = tokenizer(prompt);
    const greedy = { max_new_tokens: tokens, do_sample: false, repetition_penalty: 1 };
    const output = await model.generate({ ...inputs, ...greedy });
    const length = inputs.input_ids.dims[1];
    return [length, output.dims[1] - length];
  };
};
"""
OPEN = "async () => { const a = performance.now(); await open(); return performance.now() - a; }"
REPLY = """async ([prompt, tokens]) => {
  const a = performance.now();
  const counts = await reply(prompt, tokens);
  return [performance.now() - a, ...counts];
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, without a line on stderr for each."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def lay(root: Path, bundle: Path) -> str:
    """Lay what the pages ask for under `root`; the quantization of the bundle."""
    modules = ROOT / "runtimes" / "web" / "node_modules"
    (root / "models").mkdir()
    (root / "blank.html").write_text("<!doctype html><title>benchmark</title>")
    (root / "package").symlink_to(ROOT / "examples" / "web" / "atom-edge")
    (root / "ours").symlink_to(modules / "onnxruntime-web" / "dist")
    (root / "theirs").symlink_to(ROOT / "tests" / "foreign" / "node_modules")
    endless = root / "models" / "bundle"
    shutil.copytree(bundle, endless)
    manifest: dict[str, Any] = json.loads((endless / "manifest.json").read_text())
    for name in ("config.json", "generation_config.json"):
        config = json.loads((endless / name).read_text())
        data = json.dumps({**config, "eos_token_id": -1}).encode()
        (endless / name).write_bytes(data)
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"][name] = entry
    (endless / "manifest.json").write_text(json.dumps(manifest))
    return str(manifest["quantization"])


def new_page(browser: Browser, url: str, program: str) -> tuple[Page, float]:
    """A page with a model open, and the milliseconds that opening took."""
    page = browser.new_page()
    page.goto(f"{url}/blank.html")
    page.evaluate(f"async () => {{ {program} }}")
    return page, page.evaluate(OPEN)


def reply(page: Page, tokens: int) -> tuple[float, int]:
    """The milliseconds of a reply of so many tokens, and the length of the prompt."""
    milliseconds, prompt, made = page.evaluate(REPLY, [PROMPT, tokens])
    assert made == tokens, f"{made} tokens came, and not {tokens}"
    return milliseconds, prompt


def measure(browser: Browser, url: str, programs: dict[str, str]) -> dict[str, dict[str, float]]:
    """Medians of each program's figures."""
    figures: dict[str, dict[str, list[float]]] = {}
    pages: dict[str, Page] = {}
    for name, program in programs.items():
        pages[name], opened = new_page(browser, url, program)
        cold, _ = reply(pages[name], 1)
        figures[name] = {"open": [opened], "cold": [cold], "first": [], "rate": []}
    for done in range(WARM_UP + ROUNDS):
        for name, page in pages.items():
            first, _ = reply(page, 1)
            whole, _ = reply(page, 1 + TOKENS)
            if done >= WARM_UP:
                figures[name]["first"].append(first)
                figures[name]["rate"].append(1000 * TOKENS / (whole - first))
    return {
        name: {kind: statistics.median(values) for kind, values in each.items()}
        for name, each in figures.items()
    }


def report(figures: dict[str, dict[str, float]], prompt: int, chromium: str) -> str:
    """The results as Markdown."""
    rows = {
        "open": "open the bundle from this machine, ms",
        "cold": "first token of the first reply, ms",
        "first": f"first token after {prompt} tokens, ms",
        "rate": "tokens a second",
    }
    names = list(figures)
    lines = [
        "# In a browser",
        "",
        f"Chromium {chromium}, headless, WebAssembly on one thread, the same bundle for both,",
        f"{TOKENS} tokens, greedy: medians of {ROUNDS} rounds in turns, {WARM_UP} before them.",
        "`python benchmarks/browser.py BUNDLE` measures it anew. The target is a ratio of 2.",
        "",
        f"| | {' | '.join(names)} | ratio |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for kind, label in rows.items():
        ours, theirs = (figures[name][kind] for name in names)
        ratio = ours / theirs if kind == "rate" else theirs / ours
        lines.append(f"| {label} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with tempfile.TemporaryDirectory() as folder:
        quantization = lay(Path(folder), Path(sys.argv[1]))
        handler = functools.partial(Quiet, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        dtype = {"none": "fp32", "int8": "q8"}[quantization]
        programs = {
            "atom-edge": OURS,
            "transformers.js 4.3.2": THEIRS.replace("DTYPE", json.dumps(dtype)),
        }
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page, _ = new_page(browser, url, OURS)
            _, prompt = reply(page, 1)
            page.close()
            figures = measure(browser, url, programs)
            print(report(figures, prompt, browser.version))
            browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
