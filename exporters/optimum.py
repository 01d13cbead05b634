"""Atom as an architecture of Optimum's ONNX exporter.

Once registered, `optimum.exporters.onnx.main_export` and `optimum-cli export onnx --task
text-generation-with-past` take an Atom folder. Their graph has the names and axes of ours but comes
from Optimum's own tracer, and is neither fused nor validated as `atom-edge export` does.
"""

from __future__ import annotations

from typing import Any

from optimum.exporters.onnx.config import TextDecoderWithPositionIdsOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfigWithGQA
from optimum.utils.input_generators import (
    DummyTextInputGenerator,
    MistralDummyPastKeyValuesGenerator,
)

from atom_edge import modeling
from atom_edge.config import AtomConfig

TASKS = ("text-generation", "text-generation-with-past")


class AtomOnnxConfig(TextDecoderWithPositionIdsOnnxConfig):
    """Inputs, outputs and dummy inputs of Atom for Optimum's tracer."""

    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator, MistralDummyPastKeyValuesGenerator)
    DUMMY_PKV_GENERATOR_CLASS = MistralDummyPastKeyValuesGenerator
    NORMALIZED_CONFIG_CLASS = NormalizedTextConfigWithGQA
    # Optimum's own default of 1e-5 is below the rounding of float32 logits.
    ATOL_FOR_VALIDATION = 1e-4


def register() -> None:
    """Register `model_type: "atom"` with Optimum for this process; may be called again."""
    modeling.register()
    add = TasksManager.create_register("onnx", overwrite_existing=True)
    add(AtomConfig.model_type, *TASKS)(AtomOnnxConfig)
    _tell_library()


def _tell_library() -> None:
    """Have Optimum take our model for one of transformers: it looks at the class's module only."""
    infer = TasksManager._infer_library_from_model_or_model_class.__func__
    if getattr(infer, "knows_atom", False):
        return

    def infer_with_atom(cls: type[TasksManager], model: Any = None, model_class: Any = None) -> str:
        if isinstance(model, modeling.AtomPreTrainedModel) or (
            isinstance(model_class, type) and issubclass(model_class, modeling.AtomPreTrainedModel)
        ):
            return "transformers"
        return str(infer(cls, model=model, model_class=model_class))

    infer_with_atom.knows_atom = True  # type: ignore[attr-defined]  # a mark on a function
    TasksManager._infer_library_from_model_or_model_class = classmethod(infer_with_atom)
