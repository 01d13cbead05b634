"""An onnxruntime session whose errors are ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime

from atom_edge.errors import BundleError

_FATAL = 4  # the severity of a log line; whatever is less comes as an exception too


class OnnxSession(onnxruntime.InferenceSession):
    """`onnxruntime.InferenceSession`, quiet, with a `BundleError` for whatever it raises.

    onnxruntime's exceptions have no common base of their own, and bare `RuntimeError` is among
    them.
    """

    def __init__(
        self, graph: bytes | str, options: onnxruntime.SessionOptions, providers: Sequence[Any]
    ) -> None:
        options.log_severity_level = _FATAL
        try:
            super().__init__(graph, options, providers=providers)
            # It would keep the bytes, to load them again with another provider after an error.
            self.disable_fallback()
            self._model_bytes = None
        except Exception as error:
            name = "the graph" if isinstance(graph, bytes) else graph
            raise BundleError(
                f"onnxruntime {onnxruntime.__version__} cannot run {name}: {error}"
            ) from error

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], *more: Any
    ) -> list[Any]:
        """See `InferenceSession.run`."""
        try:
            return super().run(output_names, input_feed, *more)
        except Exception as error:
            raise _failed(error) from error

    def run_with_iobinding(self, iobinding: onnxruntime.IOBinding, *more: Any) -> None:
        """See `InferenceSession.run_with_iobinding`."""
        try:
            super().run_with_iobinding(iobinding, *more)
        except Exception as error:
            raise _failed(error) from error


def _failed(error: Exception) -> BundleError:
    return BundleError(f"onnxruntime {onnxruntime.__version__} failed in the graph: {error}")
