"""Steps shown on stderr as they run, with the time that each took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def show_steps(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Give a function that begins the step of a name and so ends the one before.

    In a terminal the running step has a spinner and a clock; elsewhere each finished step is a
    line. Nothing is shown with `quiet`.
    """
    console = Console(stderr=True, quiet=quiet, highlight=False)
    spinner = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    running: tuple[str, float] | None = None
    task = spinner.add_task("", visible=False)

    def finish() -> None:
        if running is not None:
            console.print(f"  [green]done[/green]  {running[0]:<32} {_since(running[1])}")

    def begin(name: str) -> None:
        nonlocal running
        finish()
        running = (name, time.perf_counter())
        spinner.reset(task, description=name, visible=True)

    with spinner:
        yield begin
        finish()


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:6.1f} s"
