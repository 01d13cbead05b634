"""The terminal of a conversation: lines with history in, wrapped and harmless text out.

All of it also works without a terminal: then nothing is coloured, wrapped or prompted for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rich.cells import cell_len

from atom_edge.cli.text import write

_HISTORY_LINES = 1000
_BLOCK = '"""'
# Control characters of C0 and C1 could move the cursor or worse; newline and tab may pass.
_HARMLESS = dict.fromkeys((*range(32), *range(127, 160)), "�")
del _HARMLESS[0x09], _HARMLESS[0x0A]


def is_interactive() -> bool:
    """Whether a person is typing."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def styled(text: str, code: str) -> str:
    """`text` in an ANSI style such as "2" (dim) or "1;36", where colour is welcome."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\033[{code}m{text}\033[0m"


def note(text: str) -> None:
    """Say something that is not part of the conversation's text, on stderr."""
    sys.stderr.write((styled(text, "2") if sys.stderr.isatty() else text) + "\n")
    sys.stderr.flush()


class LineReader:
    """Reads messages: editing and history where there is a terminal, plain lines elsewhere.

    A line that ends in a backslash goes on in the next; three double quotes begin and end a
    message of several lines. A block that is pasted is one message, as far as the terminal says
    that it pastes (bracketed paste) and GNU readline reads it.

    Args:
        prompt: what a line begins with on a terminal.
        completions: what the tab key offers for the beginning of a line, as last words of it.
    """

    def __init__(self, prompt: str, completions: Callable[[str], Iterable[str]]) -> None:
        self._prompt = prompt
        self._interactive = is_interactive()
        if self._interactive:
            _set_up_readline(completions)

    def read(self) -> str:
        """Return the next message.

        Raises:
            EOFError: at the end of the input (Ctrl+D).
            UnicodeDecodeError: for a line that is not text; the next call reads the next line.
            KeyboardInterrupt: at Ctrl+C; what was typed is dropped.
        """
        line = self._line(self._prompt)
        if line.lstrip().startswith(_BLOCK):
            return self._block(line.lstrip().removeprefix(_BLOCK))
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self._line("")
        return "\n".join([*lines, line])

    def _block(self, first: str) -> str:
        lines, line = [], first
        while not line.rstrip().endswith(_BLOCK):
            lines.append(line)
            line = self._line("")
        lines.append(line.rstrip().removesuffix(_BLOCK))
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if self._interactive:
            return input(_unprinted(styled(prompt or "... ", "1;36"))).rstrip("\n")
        # Bytes: after one undecodable line, the text layer of stdin would not read another.
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return line.rstrip(b"\r\n").decode()


def _unprinted(prompt: str) -> str:
    """Mark ANSI codes so that the line editor does not count them as columns."""
    return (
        prompt.replace("\033[", "\001\033[").replace("m", "m\002") if "\033" in prompt else prompt
    )


def history_file() -> Path:
    """Where the lines that were typed are kept: in the XDG state folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "atom-edge" / "chat_history"


def _set_up_readline(completions: Callable[[str], Iterable[str]]) -> None:
    """History, completion and pasted blocks, where Python has a line editor."""
    try:
        import readline
    except ImportError:  # Windows: the console keeps its own history
        return
    _open_history(readline)
    offered: list[str] = []

    def complete(_: str, turn: int) -> str | None:
        if turn == 0:
            offered[:] = completions(readline.get_line_buffer()[: readline.get_endidx()])
        return offered[turn] if turn < len(offered) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set enable-bracketed-paste on")


def _open_history(readline: Any) -> None:
    """Load earlier lines and save them at exit; a home that cannot be written is no error."""
    import atexit

    path = history_file()
    readline.set_history_length(_HISTORY_LINES)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)

    def save() -> None:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)

    atexit.register(save)


class ReplyWriter:
    """Writes a reply as it comes, without breaking words at the right edge of a terminal."""

    def __init__(self) -> None:
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        self._column = 0
        self._spaces = ""
        self._word = ""
        self._begun = False

    def push(self, text: str) -> None:
        """Write all whole words; keep the last one until it is known where it ends."""
        text = text.translate(_HARMLESS)
        if not self._width:
            write(text)
            return
        if not self._begun:  # the prompt's line has ended: no space need join the reply to it
            text = text.lstrip()
            self._begun = bool(text)
        shown = ""
        for character in text:
            if not character.isspace():
                self._word += character
                continue
            shown += self._placed()
            if character == "\n":
                shown += "\n"
                self._column, self._spaces = 0, ""
            else:
                self._spaces += " "
        if shown:
            write(shown)

    def close(self) -> None:
        """Write what was kept, and end the line; on a terminal, leave an empty one."""
        write(self._placed() + ("\n\n" if self._width else "\n"))

    def _placed(self) -> str:
        """The kept word, after its spaces or, where it does not fit, on a new line."""
        if not self._word:
            return ""
        spaces, word = self._spaces, self._word
        self._spaces = self._word = ""
        length = cell_len(word)
        if self._column > 0 and self._column + len(spaces) + length > self._width:
            self._column = length
            return "\n" + word
        self._column += len(spaces) + length
        return spaces + word


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Within the block Ctrl+C only adds to the list that the block is given, and shows no `^C`."""
    presses: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        presses.append(number)

    previous = signal.signal(signal.SIGINT, remember)
    try:
        with _control_keys_unseen():
            yield presses
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _control_keys_unseen() -> Iterator[None]:
    """Keep the terminal from writing `^C` into the text; without one, do nothing."""
    try:
        import termios

        state = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    quiet = state.copy()
    quiet[3] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, state)
