"""Where the valid files lie, what the small model says, and where mutants are put."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from atom_edge.runtimes.session import AtomSession

PROMPT = "The water cycle is"
NEW_TOKENS = 6


class Place:
    """Where the valid files lie, and where mutants are put.

    Attributes:
        bundles: of the same small model.
        snapshot: the model.
        scratch: an empty folder.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.bundles = sorted((root / "bundles").iterdir())
        self.snapshot = root / "snapshot"
        self.scratch = scratch
        self._texts: dict[Path, str] = {}
        self._sessions: dict[Path, AtomSession] = {}

    def session(self, bundle: Path) -> AtomSession:
        """The bundle as it should be, opened."""
        if bundle not in self._sessions:
            self._sessions[bundle] = AtomSession.from_pretrained(bundle)
        return self._sessions[bundle]

    def text(self, bundle: Path) -> str:
        """What the bundle says, as it should be."""
        if bundle not in self._texts:
            self._texts[bundle] = say(self.session(bundle))
        return self._texts[bundle]

    def copy(self, folder: Path) -> Path:
        """A copy that may be changed."""
        target = self.scratch / "mutant"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        return target


def say(session: AtomSession) -> str:
    """What a session makes of the prompt."""
    return session.generate(PROMPT, max_new_tokens=NEW_TOKENS, temperature=0).text


@cache
def seeds(name: str) -> list[Any]:
    """Inputs of one kind that once did harm; whatever does so next becomes a line there."""
    file = Path(__file__).parent / "seeds" / f"{name}.json"
    values: list[Any] = json.loads(file.read_text(encoding="utf-8"))
    return values
