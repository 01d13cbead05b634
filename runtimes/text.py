"""Tokens to shown text: streaming detokenization, and stop texts that may span tokens."""

from __future__ import annotations

from collections.abc import Sequence

from atom_edge.detokenizer import Detokenizer


class TextStream:
    """Gives out text as soon as it is certain that it is part of the reply.

    Of several stop texts, the one that ends first ends the reply, and the longest of those that
    end there; so the text does not depend on how the tokens cut it.

    Args:
        detokenizer: a fresh one.
        stop: the stop texts.
        skip: characters at the beginning that are not part of the reply.

    Attributes:
        stopped: whether a stop text came; then every further text is empty.
    """

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = (), skip: int = 0) -> None:
        self._detokenizer = detokenizer
        self._skip = skip
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take a token; return the text that may be shown now."""
        piece = self._detokenizer.push(token_id)
        if self._skip:
            piece = self._skipped(piece)
        return self._filter(piece) if self._stop else piece

    def whole(self, token_ids: Sequence[int]) -> str:
        """The text of a whole reply, for which no stop text is looked for."""
        return self._skipped(self._detokenizer.push_all(token_ids)) + self.flush()

    def flush(self) -> str:
        """End the reply; return the text that was held back."""
        shown = self._filter(self._skipped(self._detokenizer.flush()))
        held, self._held = self._held, ""
        return shown + held

    def _skipped(self, piece: str) -> str:
        rest = piece[self._skip :]
        self._skip -= min(self._skip, len(piece))
        return rest

    def _filter(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [
            (start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0
        ]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]]
        kept = self._could_stop(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _could_stop(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop text."""
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
