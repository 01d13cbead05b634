"""Text of our own: what the gathered corpus lacks, written by programs and by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from atom_edge.errors import TrainingError
from atom_edge.training.synthetic import everyday, prose

GENERATORS = {"everyday": everyday.documents, "prose": prose.documents}


def generate(name: str, seed: int) -> Iterator[str]:
    """Yield documents, the same ones for the same seed; those of "everyday" without end.

    Raises:
        TrainingError: for a name that is no generator's; for "prose", outside the source folder.
    """
    if name not in GENERATORS:
        known = ", ".join(sorted(GENERATORS))
        raise TrainingError(f"There is no text generator {name!r}; there is {known}.")
    return GENERATORS[name](seed)


def version() -> str:
    """Return a hash of the programs and their texts: text of another version differs."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".txt")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
