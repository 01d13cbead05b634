"""What a bundle's `generation_config.json` says, with the meaning that transformers gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError, GenerationError
from atom_edge.runtimes.options import GenerationOptions, Options

_FILE = "generation_config.json"
# The value that transformers gives to `top_k` where samples are drawn and none is stated.
_TOP_K = 50


class _Stated(msgspec.Struct):
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None


_TokenId = Annotated[int, msgspec.Meta(lt=2**31)]


class _Ids(msgspec.Struct):
    bos_token_id: _TokenId | list[_TokenId] | None = None
    eos_token_id: _TokenId | list[_TokenId] | None = None
    decoder_start_token_id: _TokenId | list[_TokenId] | None = None


class SpecialIds(NamedTuple):
    """Ids that begin and end a text; empty where the bundle names none."""

    begin: list[int]
    end: list[int]
    start: list[int]


@dataclass(frozen=True)
class Defaults:
    """The options of a reply that its caller leaves out.

    A file that says nothing of sampling leaves `GenerationOptions`' own defaults. As soon as it
    does, its silence means what it means in transformers: without `do_sample` the likeliest token
    is taken each time; with it, temperature and top-p are 1 and top-k is 50.
    """

    stated: Options
    max_length: int | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Defaults:
        """Read a bundle's defaults.

        Raises:
            BundleError: if a value is of the wrong type or outside its range.
        """
        return cls.parse(bundle.generation_config, str(bundle.path / _FILE))

    @classmethod
    def parse(cls, generation_config: Mapping[str, Any], where: str) -> Defaults:
        """What a `generation_config.json` says; `where` is its path, for messages.

        Raises:
            BundleError: if a value is of the wrong type or outside its range.
        """
        stated = _read(generation_config, _Stated, where)
        options = _sampling(stated)
        if stated.repetition_penalty is not None:
            options["repetition_penalty"] = stated.repetition_penalty
        if stated.max_new_tokens is not None:
            options["max_new_tokens"] = stated.max_new_tokens
        try:
            GenerationOptions.of(options)
        except GenerationError as error:
            raise BundleError(f"{where}: {error}") from error
        max_length = stated.max_length if stated.max_new_tokens is None else None
        return cls(options, max_length)

    def options(self, prompt_tokens: int) -> Options:
        """The options after a prompt of so many tokens."""
        if self.max_length is None:
            return self.stated
        return {**self.stated, "max_new_tokens": max(1, self.max_length - prompt_tokens)}


def _sampling(stated: _Stated) -> Options:
    filters = (stated.temperature, stated.top_k, stated.top_p, stated.min_p)
    if stated.do_sample is None and all(value is None for value in filters):
        return {}
    options: Options = {
        "temperature": 1.0 if stated.temperature is None else stated.temperature,
        "top_k": _TOP_K if stated.top_k is None else stated.top_k,
        "top_p": 1.0 if stated.top_p is None else stated.top_p,
        "min_p": stated.min_p or 0.0,
    }
    if not stated.do_sample:
        options["temperature"] = 0.0
    return options


def special_ids(bundle: Bundle) -> SpecialIds:
    """The special ids that generation needs: the generation config's, else the config's.

    Raises:
        BundleError: for what is no token id.
    """
    return parse_special_ids(bundle.generation_config, bundle.config, str(bundle.path))


def parse_special_ids(
    generation_config: Mapping[str, Any], config_json: Mapping[str, Any], folder: str
) -> SpecialIds:
    """`special_ids` of the content of the two files in a folder."""
    generation = _read(generation_config, _Ids, f"{folder}/{_FILE}")
    config = _read(config_json, _Ids, f"{folder}/config.json")

    def ids(name: str) -> list[int]:
        first, second = getattr(generation, name), getattr(config, name)
        value = second if first is None else first
        if value is None:
            return []
        found = value if isinstance(value, list) else [value]
        return [token_id for token_id in found if token_id >= 0]  # -1 stands for none

    return SpecialIds(
        begin=ids("bos_token_id"), end=ids("eos_token_id"), start=ids("decoder_start_token_id")
    )


def _read(values: Mapping[str, Any], kind: type[Any], where: str) -> Any:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise BundleError(f"{where}: {error}.") from error
