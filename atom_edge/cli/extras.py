"""What a command says when a package of one of its extras is not installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from atom_edge.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(purpose: str, extra: str) -> Iterator[None]:
    """Turn a failing import in the block into a `MissingExtraError` that names `extra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "atom_edge":
            raise
        raise MissingExtraError(purpose, extra, module) from error
