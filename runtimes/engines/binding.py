"""Arrays that are bound to a graph once and run over again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atom_edge.runtimes.engines.interface import Array

if TYPE_CHECKING:
    import onnxruntime as ort


class Binding:
    """Inputs and outputs of a session's graph, in memory of ours.

    Args:
        session: that runs the graph, on the CPU.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._binding = session.io_binding()
        # A binding holds addresses only: the arrays must outlive it.
        self._inputs: dict[str, Array] = {}
        self._outputs: dict[str, Array] = {}

    def feed(self, arrays: Mapping[str, Array]) -> None:
        """Bind inputs, by name; those that are bound already cost nothing."""
        for name, array in arrays.items():
            if self._inputs.get(name) is not array:
                self._binding.bind_cpu_input(name, array)  # its memory, not a copy
                self._inputs[name] = array

    def take(self, arrays: Mapping[str, Array]) -> None:
        """Bind all outputs that are wanted, by name."""
        if arrays.keys() != self._outputs.keys():
            self._binding.clear_binding_outputs()
            self._outputs.clear()
        for name, array in arrays.items():
            if self._outputs.get(name) is not array:
                self._binding.bind_output(
                    name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
                )
                self._outputs[name] = array

    def run(self) -> None:
        """Run the graph over what the inputs hold now."""
        self._session.run_with_iobinding(self._binding)
