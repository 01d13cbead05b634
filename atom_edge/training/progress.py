"""Progress bars of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


@contextmanager
def tokenizing(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show how much of the text is tokenized; call with a source's name and the done share."""
    columns = (TextColumn("tokenizing {task.fields[source]}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=1.0, source="")

        def report(source: str, share: float) -> None:
            progress.update(task, completed=share, source=source)

        yield report


@contextmanager
def training(
    console: Console, first: int, steps: int
) -> Iterator[Callable[[int, float, float], None]]:
    """Show steps done, loss, tokens a second and time left; call with the first three."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=60) as progress:
        task = progress.add_task("", total=steps, completed=first, loss=float("nan"), speed=0.0)

        def show(step: int, loss: float, speed: float) -> None:
            progress.update(task, completed=step, loss=loss, speed=speed)

        yield show
