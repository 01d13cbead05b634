"""The error tree.

Every error that atom-edge raises on purpose derives from `AtomEdgeError`, and its message says
what was wrong, where, and what to do. The command line prints the message without a traceback
and exits 1.

    AtomEdgeError
    ├── SnapshotError              a model folder or hub id that cannot be opened
    │   ├── UnsupportedModelError  a feature that the model in this package does not compute
    │   └── WeightsError           tensors that are missing, left over or of another shape
    ├── TokenizerError             a tokenizer file that cannot be used
    ├── BundleError                an exported folder that cannot be used
    │   └── IntegrityError         a file that is missing, changed or unsafe
    ├── ExportError                an export that cannot be done
    │   └── ValidationError        an export whose result is not the PyTorch model's
    ├── BuildError                 the native library cannot be compiled
    ├── ProviderError              an execution provider that was asked for and cannot be had
    ├── GenerationError            a request that cannot be generated
    ├── CacheError                 a saved cache that cannot be opened, or one that cannot be saved
    ├── RequestError               an HTTP request that is refused
    ├── TrainingError              a recipe, a data source or a run that cannot be used
    ├── EvaluationError            a task or its data that cannot be used
    └── MissingExtraError          an optional dependency that this command needs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atom_edge.manifest import Validation


class AtomEdgeError(Exception):
    """Base of all errors that atom-edge raises on purpose."""


class SnapshotError(AtomEdgeError):
    """A model folder or hub id cannot be opened."""


class UnsupportedModelError(SnapshotError):
    """The snapshot asks for a feature that `AtomForCausalLM` does not compute."""


class WeightsError(SnapshotError):
    """Tensors of the snapshot are missing, left over or of another shape than the model's."""


class TokenizerError(AtomEdgeError):
    """A tokenizer file cannot be used."""


class BundleError(AtomEdgeError):
    """An exported folder cannot be used."""


class IntegrityError(BundleError):
    """A file of a bundle is missing, has changed or is unsafe to open."""


class ExportError(AtomEdgeError):
    """An export cannot be done."""


class ValidationError(ExportError):
    """The exported graph does not compute what the PyTorch model computes.

    Attributes:
        validation: the figures as far as they were measured; None if none was.
    """

    def __init__(self, message: str, validation: Validation | None = None) -> None:
        super().__init__(message)
        self.validation = validation


class BuildError(AtomEdgeError):
    """The native library cannot be compiled."""


class ProviderError(AtomEdgeError):
    """An execution provider was asked for and cannot be had."""


class GenerationError(AtomEdgeError):
    """A request cannot be generated."""


class CacheError(AtomEdgeError):
    """A saved cache cannot be opened, or a cache cannot be saved."""


class RequestError(AtomEdgeError):
    """An HTTP request is refused.

    Attributes:
        status: of the response.
        kind: `type` of OpenAI's error object.
        param: the field that is wrong, if it is one.
        code: a word for programs.
        figures: further fields of the error object.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        figures: dict[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.figures = figures or {}


class TrainingError(AtomEdgeError):
    """A recipe, a data source or a training run cannot be used."""


class EvaluationError(AtomEdgeError):
    """A task or its data cannot be used."""


def how_to_install(extra: str) -> str:
    """What to type for an extra: the package is on no index, so it comes from its source."""
    return f"Run, in the source folder of atom-edge: pip install '.[{extra}]'"


class MissingExtraError(AtomEdgeError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str, module: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{module}', which is not installed. "
            f"{how_to_install(extra)}"
        )
