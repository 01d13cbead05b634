"""The options of a generation on the command line, read off `GenerationOptions`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from atom_edge.runtimes.kinds import unescape
from atom_edge.runtimes.options import OPTIONS, GenerationOptions, Options, kind_of


def with_generation_options(
    without: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of `GenerationOptions`, in place of its `options`.

    Typer reads options off a function's signature. `options` of the command must be an `Options`:
    it gets those that were given, so that the session decides about the others.

    Args:
        without: names of options that make no sense for this command.
    """
    fields = [
        field
        for name, field in OPTIONS.items()
        if name not in without and kind_of(field).written is not None
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def parsed(**values: Any) -> None:
            given = {field.name: values.pop(field.name) for field in fields}
            command(options=_options(given), **values)

        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "options":
                parameters += [_parameter(field) for field in fields]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        # `inspect` and Typer read these; a type checker need not know them.
        vars(parsed)["__signature__"] = inspect.Signature(parameters)
        parsed.__annotations__ = {each.name: each.annotation for each in parameters}
        return parsed

    return decorate


def _parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    names = ["--" + field.name.replace("_", "-")]
    if field.metadata["flag"]:
        names.append(field.metadata["flag"])
    default = getattr(GenerationOptions, field.name)
    option = typer.Option(
        *names, help=field.metadata["help"], show_default=str(default) if default else False
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind_of(field).written | None, option],
    )


def _options(given: dict[str, Any]) -> Options:
    options = {name: value for name, value in given.items() if value is not None}
    for name in ("stop", "choices"):
        if name in options:
            options[name] = tuple(map(unescape, options[name]))
    GenerationOptions.of(options)  # what is wrong is said before a model is loaded
    return cast(Options, options)
