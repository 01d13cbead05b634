"""Programs that write training text: what the gathered corpus lacks, made of our own facts."""

from __future__ import annotations

from collections.abc import Iterator

from atom_edge.errors import TrainingError
from atom_edge.training.synthetic.everyday import documents

_GENERATORS = {"everyday": documents}


def generate(name: str, seed: int) -> Iterator[str]:
    """Yield documents without end, the same ones for the same seed.

    Raises:
        TrainingError: for a name that is no generator's.
    """
    if name not in _GENERATORS:
        known = ", ".join(sorted(_GENERATORS))
        raise TrainingError(f"There is no text generator {name!r}; there is {known}.")
    return _GENERATORS[name](seed)
