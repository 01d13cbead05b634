"""A GGUF file as a snapshot: unpacked by transformers' own reader into a folder of its form."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from atom_edge.errors import MissingExtraError, SnapshotError
from atom_edge.transformers_versions import dense_from_gguf, quiet_transformers


def unpack(file: Path) -> Path:
    """A folder, which goes with this process, that holds what `file` holds, its weights in float32.

    Raises:
        MissingExtraError: transformers' reader needs the packages accelerate and gguf.
        SnapshotError: transformers cannot read the file: an architecture or a type of weights that
            it does not know, or no GGUF file.
    """
    for package in ("accelerate", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"Opening {file}", "export", package)
    folder = Path(tempfile.mkdtemp(prefix="atom-edge-gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # The reader has a progress bar of its own.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        try:
            model = dense_from_gguf(file)
            tokenizer = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            )
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except Exception as error:  # each architecture has ways of its own to fail
            raise SnapshotError(f"transformers cannot read {file}: {error}") from error
    return folder
