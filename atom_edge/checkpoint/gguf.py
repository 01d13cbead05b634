"""A GGUF file as a snapshot: unpacked by transformers' own reader into a folder of its form."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from atom_edge.errors import MissingExtraError, SnapshotError
from atom_edge.transformers_versions import quiet_transformers


def unpack(file: Path) -> Path:
    """A folder, which goes with this process, that holds what `file` holds, its weights in float32.

    Raises:
        MissingExtraError: transformers' reader needs the package gguf.
        SnapshotError: transformers cannot read the file: an architecture or a type of weights that
            it does not know, or no GGUF file.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError(f"Opening {file}", "export", "gguf")
    folder = Path(tempfile.mkdtemp(prefix="atom-edge-gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    where = {"gguf_file": file.name, "local_files_only": True}
    # The reader has a progress bar of its own.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        try:
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except Exception as error:  # each architecture has ways of its own to fail
            raise SnapshotError(f"transformers cannot read {file}: {error}") from error
    return folder
