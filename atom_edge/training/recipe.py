"""A training run as a TOML file: model, tokenizer, sources with their curriculum, optimizer.

A recipe says everything that decides the weights; where files lie is given beside it, so that one
recipe runs on any machine.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from atom_edge.errors import TrainingError


@dataclass(frozen=True)
class Source:
    """One stream of documents and its share of the tokens, which changes linearly over the run.

    Exactly one of `shards` (globs below the data folder), `hub` (a data set's name) and
    `generator` (a program of `atom_edge.training.synthetic`) says where the text comes from.
    """

    name: str
    start: float
    end: float
    shards: tuple[str, ...] = ()
    include: tuple[str, ...] = ("*",)  # patterns, of which a document's field "source" matches one
    exclude: tuple[str, ...] = ()  # patterns that it must not match
    hub: str = ""
    configuration: str = "default"
    split: str = "train"
    text_field: str = "text"
    generator: str = ""
    max_tokens: int = 0  # 0: all of it


@dataclass(frozen=True)
class Optimizer:
    """Muon for the matrices of the layers, AdamW for embedding and norms, and their schedule."""

    muon_lr: float = 0.025
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.1
    adamw_lr: float = 0.004
    adamw_betas: tuple[float, ...] = (0.9, 0.95)
    warmup_steps: int = 100
    decay_share: float = 0.7  # of the run, at its end, in which the rates fall linearly
    final_rate: float = 0.0  # what the rates fall to, as a share of the highest
    gradient_clip: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a run."""

    tokens: int
    sources: tuple[Source, ...]
    model: dict[str, Any] = field(default_factory=dict)  # options of AtomConfig
    optimizer: Optimizer = field(default_factory=Optimizer)
    tokenizer: str = ""  # folder; empty: the reference checkpoint's
    batch_windows: int = 512  # windows of a step, over all devices
    device_windows: int = 0  # windows that a device holds at once; 0: what suits it
    seed: int = 0
    aligned_share: float = 0.0  # of the windows with a document's start in them, begin at it
    teacher_share: float = 0.0  # of a teacher's distributions in the loss; the text has the rest
    validation_tokens: int = 262_144  # held out of each source
    validation_every: int = 1000  # steps
    checkpoint_every: int = 2000  # steps
    log_every: int = 20  # steps

    @property
    def context(self) -> int:
        """Tokens of a window."""
        return int(self.model.get("max_position_embeddings", 512))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return max(1, self.tokens // (self.batch_windows * self.context))


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe file, or one of those shipped, named without its suffix.

    Raises:
        TrainingError: for a missing file, broken TOML, an unknown or missing key, a value of
            another type, or shares that do not add up to 1 or are none.
    """
    text = _recipe_text(path)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path} is not valid TOML: {error}.") from error
    recipe: Recipe = _build(Recipe, content, str(path))
    for moment in ("start", "end"):
        total = sum(getattr(source, moment) for source in recipe.sources)
        if abs(total - 1) > 1e-6:
            raise TrainingError(
                f"{path}: the sources' shares at the {moment} add up to {total:g}; make it 1."
            )
    for name in ("aligned_share", "teacher_share"):
        share = getattr(recipe, name)
        if not 0 <= share <= 1:
            raise TrainingError(f"{path}: {name} is {share:g}; make it 0 to 1.")
    for source in recipe.sources:
        if sum(map(bool, (source.shards, source.hub, source.generator))) != 1:
            raise TrainingError(
                f"{path}: source {source.name!r} needs exactly one of 'shards', 'hub' and "
                "'generator'."
            )
    return recipe


def _recipe_text(path: Path | str) -> str:
    file = Path(path)
    if file.is_file():
        return file.read_text(encoding="utf-8")
    shipped = resources.files("atom_edge.training") / "recipes"
    named = shipped / f"{path}.toml"
    if named.is_file():
        return named.read_text(encoding="utf-8")
    names = ", ".join(sorted(entry.name.removesuffix(".toml") for entry in shipped.iterdir()))
    raise TrainingError(f"There is no recipe {path}. Give a TOML file, or one of: {names}.")


def _build(kind: Any, content: Any, where: str) -> Any:
    """Make the dataclass `kind` of a TOML table, checking names and types."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(content, dict):
        raise TrainingError(f"{where}: expected a table, found {content!r}.")
    if unknown := sorted(set(content) - set(fields)):
        raise TrainingError(
            f"{where}: unknown {', '.join(unknown)}; known are {', '.join(fields)}."
        )
    types_of = typing.get_type_hints(kind)
    values = {
        name: _convert(types_of[name], value, f"{where}: {name}") for name, value in content.items()
    }
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise TrainingError(f"{where}: missing {', '.join(missing)}.")
    return kind(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(kind.__args__[0], item, where) for item in items)
    plain = getattr(kind, "__origin__", kind)
    if plain is float and type(value) is int:
        value = float(value)
    if type(value) is not plain:
        raise TrainingError(f"{where}: expected {plain.__name__}, found {value!r}.")
    return value
