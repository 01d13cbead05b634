"""Snapshots with model code of their own: compared when trusted, never run when not."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from atom_edge import open_snapshot
from atom_edge.errors import SnapshotError

CODE = (Path(__file__).parent / "stranger" / "modeling_stranger.py").read_text()


@pytest.fixture(autouse=True)
def own_modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies a snapshot's code to its cache; let that be a folder of the test."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )


def stranger(folder: Path, tokenizer_json: Path, **facts: Any) -> Path:
    """A folder with random weights, and code that computes what `facts` say."""
    code = CODE
    for name, value in facts.items():
        code, changed = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", code, flags=re.MULTILINE)
        assert changed == 1
    folder.mkdir()
    file = folder / "modeling_stranger.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(f"stranger_{abs(hash(code))}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    torch.manual_seed(0)
    config = module.StrangerConfig()
    model = module.StrangerForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.auto_map = {
        "AutoConfig": "modeling_stranger.StrangerConfig",
        "AutoModelForCausalLM": "modeling_stranger.StrangerForCausalLM",
    }
    config.save_pretrained(folder)
    shutil.copy(tokenizer_json, folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize(
    ("facts", "variant"),
    [
        ({"XSA": False}, "as read"),
        ({"XSA": True}, "XSA on"),
        ({"INTERLEAVED": True, "XSA": False}, "interleaved rotary"),
        ({"CODE_EPS": 1e-2, "NORM_EPS": 1e-2, "XSA": False}, "as read"),
        ({"CODE_EPS": 1e-8, "XSA": False}, "norm epsilon 1e-08"),
        ({"GATE_LAST": True, "INTERLEAVED": True}, "interleaved rotary, XSA on, gate and up"),
    ],
)
def test_the_reading_that_matches_the_authors_code_is_used_and_named(
    tmp_path: Path, tokenizer_json: Path, facts: dict[str, Any], variant: str
) -> None:
    folder = stranger(tmp_path / "stranger", tokenizer_json, **facts)
    snapshot = open_snapshot(folder, trust_remote_code=True)
    assert snapshot.provenance["variant"].startswith(variant)
    assert any("author's own code by at most" in note for note in snapshot.provenance["notes"])


def test_code_that_computes_something_else_stops(tmp_path: Path, tokenizer_json: Path) -> None:
    folder = stranger(tmp_path / "stranger", tokenizer_json, ATTENTION_SCALE=0.5)
    with pytest.raises(SnapshotError, match="in every known reading") as refusal:
        open_snapshot(folder, trust_remote_code=True)
    for reading in ("as read", "XSA on", "interleaved rotary", "norm epsilon 1e-08"):
        assert reading in str(refusal.value)


def test_what_only_the_code_says_must_be_stated_without_it(
    tmp_path: Path, tokenizer_json: Path
) -> None:
    folder = stranger(tmp_path / "stranger", tokenizer_json, INTERLEAVED=True, XSA=True)
    with pytest.raises(SnapshotError, match=r"say xsa.*--trust-remote-code"):
        open_snapshot(folder)
    trusted = open_snapshot(folder, trust_remote_code=True)

    settings = json.loads((folder / "config.json").read_text())
    settings |= {"xsa": True, "rope_interleaved": True}
    (folder / "config.json").write_text(json.dumps(settings))
    stated = open_snapshot(folder)
    assert any("was not run" in note for note in stated.provenance["notes"])
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(stated.model(ids).logits, trusted.model(ids).logits)


def test_untrusted_code_is_never_run(tmp_path: Path, tokenizer_json: Path) -> None:
    folder = stranger(tmp_path / "stranger", tokenizer_json)
    witness = tmp_path / "witness"
    poison = f"from pathlib import Path\nPath({str(witness)!r}).touch()\nraise SystemExit\n"
    for name in ("modeling_stranger.py", "config.py", "tokenization.py", "__init__.py"):
        (folder / name).write_text(poison)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"xsa": True}))
    open_snapshot(folder)
    assert not witness.exists()


def test_failing_code_is_reported(tmp_path: Path, tokenizer_json: Path) -> None:
    folder = stranger(tmp_path / "stranger", tokenizer_json)
    file = folder / "modeling_stranger.py"
    file.write_text(CODE.replace("x = block(x)", "raise ValueError('not today')"))
    with pytest.raises(SnapshotError, match=r"code failed.*not today"):
        open_snapshot(folder, trust_remote_code=True)


def test_code_that_does_not_find_its_weights_stops(tmp_path: Path, tokenizer_json: Path) -> None:
    folder = stranger(tmp_path / "stranger", tokenizer_json)
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("attn.c_attn", "attn.qkv"): value for name, value in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SnapshotError, match=r"found no weights for .*c_attn\.weight"):
        open_snapshot(folder, trust_remote_code=True)
