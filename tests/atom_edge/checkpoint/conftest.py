"""A tokenizer, and the function that writes a snapshot folder from tensors and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from families import tokenizer
from safetensors.torch import save_file
from torch import Tensor

WriteSnapshot = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of 280 tokens; ids 0, 1 and 2 are pad, bos and eos."""
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer().save(str(file))
    return file


@pytest.fixture(scope="session")
def write_snapshot(tokenizer_json: Path) -> WriteSnapshot:
    """A function that fills a folder: tensors, in shards if asked, config.json, tokenizer."""

    def write(
        folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], shards: int = 1
    ) -> Path:
        folder.mkdir(exist_ok=True)
        stored = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        if shards == 1:
            save_file(stored, folder / "model.safetensors")
        else:
            home = {
                name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors"
                for index, name in enumerate(stored)
            }
            for file in set(home.values()):
                save_file({n: t for n, t in stored.items() if home[n] == file}, folder / file)
            index = {"metadata": {}, "weight_map": home}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copy(tokenizer_json, folder / "tokenizer.json")
        return folder

    return write
