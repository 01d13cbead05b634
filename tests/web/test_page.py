"""The example as its reader meets it, and bundles in transformers.js in the same browser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from atom_edge import AtomSession

from .conftest import PACKAGE, ROOT, Site

EXAMPLE = ROOT / "examples" / "web"
BUILT = ("atom-edge.js", "shared.js", "worker.js")


def test_a_reader_types_and_the_model_goes_on(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/page/")
    button = page.get_by_role("button", name="Continue")
    expect(button).to_be_enabled()
    page.locator("#temperature").fill("0")
    page.locator("#tokens").fill("12")
    text = page.get_by_label("Text", exact=True)
    text.fill("Water")
    button.click()
    speed = re.compile(r"\d+ tokens/s · first after \d+ ms")
    expect(page.locator("#status")).to_have_text(speed)
    expect(button).to_be_visible()
    session = AtomSession.from_pretrained(site.bundles / "int8")
    reply = session.generate("Water", max_new_tokens=12, temperature=0)
    assert text.input_value() == "Water" + reply.text


def test_the_page_says_what_is_wrong(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/page/?bundle=/bundles/nothing-here")
    expect(page.locator("#status")).to_contain_text("HTTP status 404")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_a_phone(scheme: str, page: Page, site: Site) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(f"{site.url}/page/")
    root = "document.documentElement"
    assert page.evaluate(f"[{root}.scrollWidth, {root}.scrollHeight]") == [360, 640]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 128) == (scheme == "dark")


def test_the_program_of_the_page_is_short() -> None:
    assert len((EXAMPLE / "page.js").read_text(encoding="utf-8").splitlines()) < 40


def test_sources_are_typed_and_the_page_has_what_they_build(
    node_modules: Path, tmp_path: Path
) -> None:
    subprocess.run([node_modules / ".bin" / "tsc"], cwd=PACKAGE, check=True)
    command = ["npm", "run", "--silent", "build", "--", f"--outdir={tmp_path}"]
    subprocess.run(command, cwd=PACKAGE, check=True, capture_output=True)
    for name in BUILT:
        built = (tmp_path / name).read_text(encoding="utf-8")
        assert (EXAMPLE / "atom-edge" / name).read_text(encoding="utf-8") == built, (
            f"examples/web/atom-edge/{name} is old: run `npm run page` in runtimes/web"
        )


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in re.sub(r'"url": "[^"]*"', "", (PACKAGE / "package-lock.json").read_text())


def test_transformers_js_opens_the_bundles(page: Page, site: Site, transformers_js: Path) -> None:
    assert transformers_js.is_dir()
    page.goto(f"{site.url}/page/README.md")
    program = """
    async () => {
      const there = "/foreign/@huggingface/transformers";
      const imports = {
        "onnxruntime-web/webgpu": "/foreign/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
        "onnxruntime-common": "/foreign/onnxruntime-common/dist/esm/index.js",
      };
      const map = document.createElement("script");
      map.type = "importmap";
      map.textContent = JSON.stringify({ imports });
      document.head.append(map);
      const { AutoModelForCausalLM, AutoTokenizer, env } = await import(
        `${there}/dist/transformers.web.min.js`
      );
      env.allowRemoteModels = false;
      env.allowLocalModels = true;
      env.localModelPath = "/bundles/";
      env.backends.onnx.wasm.wasmPaths = "/foreign/onnxruntime-web/dist/";
      const replies = {};
      for (const [bundle, dtype] of [["float", "fp32"], ["int8", "q8"]]) {
        const tokenizer = await AutoTokenizer.from_pretrained(bundle);
        const model = await AutoModelForCausalLM.from_pretrained(bundle, { dtype, device: "wasm" });
        const inputs = tokenizer("The water cycle is", { add_special_tokens: false });
        const greedy = { max_new_tokens: 12, do_sample: false, repetition_penalty: 1 };
        const output = await model.generate({ ...inputs, ...greedy });
        replies[bundle] = output.tolist()[0].slice(inputs.input_ids.dims[1]).map(Number);
      }
      return replies;
    }
    """
    replies = page.evaluate(program)
    for bundle in ("float", "int8"):
        session = AtomSession.from_pretrained(site.bundles / bundle)
        greedy = session.generate(
            "The water cycle is", max_new_tokens=12, temperature=0, repetition_penalty=1
        )
        assert [token for token in replies[bundle] if token not in session.end_ids] == list(
            greedy.token_ids
        )
