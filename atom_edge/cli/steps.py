"""Steps shown on stderr as they run: the time that each took, and the time that is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class Pace:
    """Where in a plan the work is, and when it will end.

    Args:
        plan: names of steps in order, and how long each takes beside the others. A step that is
            not in it, or is behind, changes nothing.
    """

    def __init__(self, plan: Sequence[tuple[str, float]]) -> None:
        self._plan = plan
        self._next = 0
        self._start = time.monotonic()
        self.total = sum(share for _, share in plan)
        self.done = 0.0
        self._end: float | None = None

    def begin(self, name: str) -> None:
        """Go on to the step of a name; those before it are done."""
        names = [step for step, _ in self._plan]
        if name not in names[self._next :]:
            return
        self._next = names.index(name, self._next)
        self.done = sum(share for _, share in self._plan[: self._next])
        if self.done > 0:
            now = time.monotonic()
            self._end = now + (now - self._start) * (self.total - self.done) / self.done

    @property
    def left(self) -> float | None:
        """Seconds that are left; None where nothing was measured yet."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class _TimeLeft(ProgressColumn):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        left = self._pace.left
        if left is None:
            return Text("")
        return Text(f"{int(left) // 60}:{int(left) % 60:02} left")


@contextlib.contextmanager
def show_steps(
    quiet: bool = False, plan: Sequence[tuple[str, float]] = ()
) -> Iterator[Callable[[str], None]]:
    """Give a function that begins the step of a name and so ends the one before.

    In a terminal there is one bar for the whole of `plan`, with the running step and the time that
    is left; elsewhere each finished step is a line. Nothing is shown with `quiet`.
    """
    console = Console(stderr=True, quiet=quiet, highlight=False)
    pace = Pace(plan)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *([BarColumn(24), _TimeLeft(pace)] if plan else [TimeElapsedColumn()]),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    running: tuple[str, float] | None = None
    task = bar.add_task("", visible=False, total=pace.total or None)

    def finish() -> None:
        if running is not None:
            console.print(f"  [green]done[/green]  {running[0]:<44} {_since(running[1])}")

    def begin(name: str) -> None:
        nonlocal running
        finish()
        running = (name, time.perf_counter())
        pace.begin(name)
        if plan:
            bar.update(task, description=name, completed=pace.done, visible=True)
        else:
            bar.reset(task, description=name, visible=True)

    with bar:
        yield begin
        finish()


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:6.1f} s"
