"""The validation of a finished bundle: what its export checked, again."""

from __future__ import annotations

from collections.abc import Callable

from atom_edge.bundle import Bundle
from atom_edge.checkpoint import Snapshot, open_snapshot
from atom_edge.errors import ValidationError
from atom_edge.exporters.choose import Standard, measure_form
from atom_edge.exporters.export import open_reference
from atom_edge.exporters.graphs import MAX_KL, MAX_PERPLEXITY_RATIO, forms_in
from atom_edge.exporters.plan import OPEN
from atom_edge.hub import Located
from atom_edge.manifest import Effort, Measured, Validation


def validate_bundle(
    bundle: Bundle,
    origin: Located,
    *,
    trust_remote_code: bool = False,
    max_perplexity_ratio: float | None = None,
    max_kl: float | None = None,
    effort: Effort | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Validate a finished bundle against the snapshot that it was made from.

    Args:
        bundle: the bundle.
        origin: that snapshot, as `locate_origin` finds it.
        trust_remote_code: run the snapshot's own model code.
        max_perplexity_ratio: limit for int8; that of the export when None.
        max_kl: likewise.
        effort: how much text is run; as much as the export did when None.
        progress: told the name of each step as it begins.

    Raises:
        SnapshotError: the snapshot cannot be opened.
        ValidationError: it is not the snapshot that the bundle was made from.

    Returns:
        what was measured, up to the first figure that does not hold; see `check`.
    """
    progress(OPEN)
    snapshot = open_snapshot(origin, trust_remote_code=trust_remote_code)
    _check_same_source(bundle, snapshot)
    manifest = bundle.manifest
    exported = manifest.validation
    standard = Standard(
        open_reference(snapshot),
        manifest.quantization,
        max_perplexity_ratio or exported.max_perplexity_ratio or MAX_PERPLEXITY_RATIO,
        max_kl or exported.max_kl or MAX_KL,
        effort or exported.effort or "quick",
    )
    schemes = {measured.path: measured.scheme for measured in exported.measured}
    measured: list[Measured] = []
    for form in forms_in(bundle):
        files = {role: bundle.graph(role) for role in bundle.roles}
        scheme = next((schemes[role] for role in form.roles if role in schemes), "")
        measured += measure_form(form, files, scheme, bundle.context_length, standard, progress)
        if measured[-1].failure is not None:
            break
    return standard.validation(measured)


def check(validation: Validation) -> None:
    """Raise `ValidationError` unless every figure of a repeated validation holds."""
    if validation.failure is not None:
        name, figure = validation.failure
        raise ValidationError(
            f"The bundle's graph '{name}' does not compute what the PyTorch model computes: "
            f"{figure}. Fetch or export the bundle again; if that changes nothing, please "
            "report it with this message.",
            validation,
        )


def _check_same_source(bundle: Bundle, snapshot: Snapshot) -> None:
    if snapshot.tokenizer_file.read_bytes() != bundle.tokenizer_file.read_bytes():
        raise ValidationError(
            f"{bundle.path} and {snapshot.path} have different tokenizers: the bundle was made "
            "from another snapshot. Name that one with --against."
        )
    stated, found = bundle.manifest.source.sha256, snapshot.provenance["sha256"]
    if stated and stated != found:
        raise ValidationError(
            f"The weights in {snapshot.path} are not those that {bundle.path} was made from: "
            "their sha256 differ from the manifest's. Name the right snapshot with --against, or "
            "export the bundle again."
        )
