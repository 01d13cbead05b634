"""What is carried over from a snapshot's model card to a bundle's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from atom_edge.checkpoint.card import Card, read_card
from atom_edge.exporters.card import model_card
from atom_edge.manifest import Manifest, Source


def test_licence_and_base_model_are_carried_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: 'own: \"quoted\"'\nlicense_link: LICENSE.md\n"
        "base_model:\n- org/first\n- org/second\ntags: [xsa, 3]\n---\n# A model\n"
    )
    card = read_card(tmp_path)
    assert card == Card(
        tags=["xsa"],
        license="other",
        license_name='own: "quoted"',
        license_link="LICENSE.md",
        base_model=("org/first", "org/second"),
    )
    source = Source(
        license=card.license,
        license_name=card.license_name,
        license_link=card.license_link,
        base_model=card.base_model,
    )
    manifest = Manifest(
        context_length=1, graphs={"model": "m.onnx"}, source=source, created_by={"atom-edge": "1"}
    )
    front = yaml.safe_load(model_card(manifest).split("---\n")[1])
    assert front["license_name"] == 'own: "quoted"'
    assert front["license"] == "other"
    assert front["license_link"] == "LICENSE.md"
    assert front["base_model"] == ["org/first", "org/second"]


@pytest.mark.parametrize(
    "card",
    [
        b"---\nlicense: mit: really\n---\n",
        b"---\n\tlicense: mit\n---\n",
        b"---\n- license\n- mit\n---\n",
        b"---\nlicense: [mit]\nbase_model: {a: b}\ntags: 3\n---\n",
        b"---\n" + b"[" * 5000 + b"\n---\n",
        "---\nlicense: caf\u00e9\u0007\n---\n".encode("latin-1"),
        b"---\nlicense: " + b"x" * 300 + b"\n---\n",
        b"",
    ],
)
def test_a_card_that_cannot_be_read_says_nothing(tmp_path: Path, card: bytes) -> None:
    (tmp_path / "README.md").write_bytes(card)
    assert read_card(tmp_path) == Card(tags=[])
