"""Draws docs/terminal.svg, the README's picture, from a real run: `python docs/site/picture.py`.

The lines below are typed in a terminal of 88 columns; what they print in the end is drawn.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pexpect
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parents[1]
COLUMNS = 88
LINES = (
    "atom-edge export --quantize int8 -o my-bundle",
    'atom-edge generate "The water cycle is" --echo --bundle my-bundle --seed 7 -n 48',
)


def main() -> None:
    """Run the lines and write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        for line in LINES:
            console.print(Text.assemble(("$ ", "bold cyan"), (line, "bold")))
            console.print(Text.from_ansi(run(line, folder)))
    picture = console.export_svg(title="atom-edge")
    # Without the font of another host: a page that shows it asks nobody.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    (DOCS / "terminal.svg").write_text(picture, encoding="utf-8")


def run(line: str, folder: str) -> str:
    """What a line prints in the end; a bar that was drawn over itself is not part of it."""
    name, *arguments = shlex.split(line)
    assert name == "atom-edge"
    printed, status = pexpect.run(
        shlex.join([sys.executable, "-m", "atom_edge.cli", *arguments]),
        withexitstatus=True,
        cwd=folder,
        timeout=600,
        env={"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PATH": "", "HOME": folder},
    )
    assert status == 0, printed[-1000:]
    text = printed.decode().replace("\r\n", "\n")
    lines = [each.rsplit("\r", 1)[-1] for each in text.split("\n")]
    text = "\n".join(line for line in lines if not re.search(r"\d left|done  ", line))
    return re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]", "", text).strip("\n") + "\n"


if __name__ == "__main__":
    main()
