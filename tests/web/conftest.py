"""A headless Chromium, and a file server with all that pages need."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import npm_install

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "runtimes" / "web"
expect.set_options(timeout=60_000)  # two test processes share two cores
CHROMIUM = ("chromium-headless-shell", "chromium", "google-chrome")
Ask = Callable[..., Any]

# What is common to the programs that tests run in a page.
PRELUDE = """
const { openInWorker, AtomSession } = await import("/page/atom-edge/atom-edge.js");
const onnxruntime = "/page/onnxruntime/";
const known = (globalThis.known ??= {});
const open = (bundle, how = AtomSession.open) =>
  (known[bundle + how.name] ??= how.call(AtomSession, `/bundles/${bundle}`, { onnxruntime }));
const error = async (work) => {
  try { await work(); return null; } catch (e) { return `${e.name}: ${e.message}`; }
};
"""


class Site(NamedTuple):
    """A server: `/page/` is the example; `/bundles/float` and `/bundles/int8` are two bundles."""

    url: str
    bundles: Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files, without a line on stderr for each."""

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What the sources of the package are built with."""
    return npm_install(PACKAGE)


@pytest.fixture(scope="session")
def site(
    node_modules: Path,
    small_bundle: Path,
    small_web_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "examples" / "web", root / "page")
    (root / "bundles").mkdir()
    shutil.copytree(small_bundle, root / "bundles" / "float")
    shutil.copytree(small_web_bundle, root / "bundles" / "int8")
    (root / "page" / "model").symlink_to(root / "bundles" / "int8")
    (root / "page" / "onnxruntime").symlink_to(node_modules / "onnxruntime-web" / "dist")
    (root / "foreign").symlink_to(ROOT / "tests" / "foreign" / "node_modules")
    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(f"http://127.0.0.1:{server.server_port}", root / "bundles")
        server.shutdown()


# Not for the whole session: while it is open no other event loop can run in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None and "CI" not in os.environ:
        pytest.skip("there is no Chromium: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def ask(browser: Browser, site: Site) -> Iterator[Ask]:
    """A function that runs a program in a page that stays open, and returns what it returns."""
    page = browser.new_page()
    page.goto(f"{site.url}/page/README.md")

    def run(program: str, *values: object) -> Any:
        return page.evaluate(f"async (values) => {{ {PRELUDE} {program} }}", values)

    yield run
    page.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new page, on which nothing may go wrong unseen."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors
