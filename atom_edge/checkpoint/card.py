"""What a snapshot's model card states in its front matter.

A card is prose: what cannot be read in it is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from atom_edge.border import JSON_LIMIT, read_file
from atom_edge.errors import SnapshotError

_LONGEST = 200  # characters of a statement that is carried over


@dataclass(frozen=True)
class Card:
    """Front matter of a README.md; empty where it does not say.

    Attributes:
        tags: as they stand.
        license: under the hub's name of it; "other" where it has one of its own.
        license_name: of its own.
        license_link: where it is.
        base_model: hub ids of what it was made from.
    """

    tags: list[str]
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: tuple[str, ...] = ()


def read_card(folder: Path) -> Card:
    """The card of a snapshot; an empty one if there is none."""
    front = _front_matter(folder / "README.md")
    return Card(
        tags=_texts(front.get("tags")),
        license=_text(front.get("license")),
        license_name=_text(front.get("license_name")),
        license_link=_text(front.get("license_link")),
        base_model=tuple(_texts(front.get("base_model"))),
    )


def _front_matter(file: Path) -> dict[str, Any]:
    try:
        card = read_file(file, JSON_LIMIT, SnapshotError).decode(errors="replace")
        front = yaml.safe_load(card.split("---\n", 2)[1]) if card.startswith("---\n") else None
    except (SnapshotError, IndexError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return front if isinstance(front, dict) else {}


def _text(value: Any) -> str | None:
    is_short = isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()
    return value if is_short else None


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in map(_text, values) if text is not None]
