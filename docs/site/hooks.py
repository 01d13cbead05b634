"""Makes pages of the site from files that lie outside docs/, where readers of the source look.

README.md is the home page; links between these files and docs/ are rewritten for the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "index.md": ROOT / "README.md",
    "CONTRIBUTING.md": ROOT / "CONTRIBUTING.md",
    "CHANGELOG.md": ROOT / "CHANGELOG.md",
    "SECURITY.md": ROOT / "SECURITY.md",
    "LICENSE": ROOT / "LICENSE",
    "web-page.md": ROOT / "examples" / "web" / "README.md",
    "web-package.md": ROOT / "runtimes" / "web" / "README.md",
    "model-card.md": ROOT / "atom_edge" / "reference" / "checkpoint" / "README.md",
}
RESULTS = ROOT / "benchmarks"
# Where a link in the source leads on the site.
_LINKS = (
    (r"\]\((?:\.\./)?docs/", "]("),
    (r"\]\(\.\./benchmarks/", "](benchmarks/"),
    (r"\]\(\.\./(\w+\.md|LICENSE)", r"](\1"),
    (r"\]\((?:\.\./)?examples/web/README\.md", "](web-page.md"),
    (r"\]\((?:\.\./)?runtimes/web/README\.md", "](web-package.md"),
    (r"\]\((?:\.\./)?atom_edge/reference/checkpoint/README\.md", "](model-card.md"),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the results and pictures of benchmarks/."""
    pages = dict(PAGES)
    for path in sorted([*RESULTS.glob("*.md"), *RESULTS.glob("*.svg")]):
        pages[f"benchmarks/{path.name}"] = path
    for name, path in pages.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links; drop the front matter of a model card."""
    up = "../" * page.file.src_uri.count("/")
    for pattern, replacement in _LINKS:
        markdown = re.sub(pattern, replacement.replace("](", f"]({up}", 1), markdown)
    return markdown
