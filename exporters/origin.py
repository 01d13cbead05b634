"""The snapshot that a bundle was made from: found without torch, since that takes seconds."""

from __future__ import annotations

from pathlib import Path

from atom_edge.bundle import Bundle
from atom_edge.errors import ValidationError
from atom_edge.hub import Located, locate
from atom_edge.reference import NAME, checkpoint_path


def locate_origin(
    bundle: Bundle,
    against: str | Path | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Located:
    """Find the snapshot that `bundle` was made from.

    Args:
        bundle: the bundle.
        against: that snapshot, a folder or a hub id; the one that the manifest names when None.
        revision: of a hub repository; the one that the manifest names when None.
        local_files_only: take a hub snapshot from the cache and never ask the network.
        trust_remote_code: download the repository's own model code as well.

    Raises:
        SnapshotError: it cannot be found.
        ValidationError: the manifest names a folder, and `against` does not say where it is; or the
            export ran the repository's own code, and `trust_remote_code` does not allow it.
    """
    if bundle.manifest.source.variant is not None and not trust_remote_code:
        raise ValidationError(
            f"The export of {bundle.path} also ran the model code of its author and compared with "
            "it. Allow that here with --trust-remote-code, to repeat what was checked."
        )
    if against is None:
        against = _named(bundle)
        revision = revision or bundle.manifest.source.revision
    return locate(
        against,
        revision=revision,
        local_files_only=local_files_only,
        with_code=trust_remote_code,
    )


def _named(bundle: Bundle) -> str | Path:
    source = bundle.manifest.source
    if source.repo == NAME:
        return checkpoint_path()
    if source.repo is None or source.revision is None:
        raise ValidationError(
            f"{bundle.path} was made from a folder"
            + (f" named {source.repo!r}" if source.repo else "")
            + ". Say where that is with --against."
        )
    return source.repo
