"""An editor's completion: each keystroke asks for the rest of the line, and only it is computed.

The decoder keeps what the model computed, so that a keystroke costs its own token and a backspace
costs nothing; with `heal`, a half-typed word goes on as the word it is.
"""

from __future__ import annotations

import os

from atom_edge import AtomSession

session = AtomSession.from_pretrained(os.environ.get("BUNDLE"))
decoder = session.new_decoder()


def complete(text: str) -> str:
    """What may follow the text before the cursor, to the end of the line."""
    pieces = session.stream(
        text, decoder=decoder, heal=True, temperature=0, max_new_tokens=8, stop="\n"
    )
    return "".join(piece.text for piece in pieces)


if __name__ == "__main__":
    typed = ""
    for key in "Plants need light and wate":
        typed += key
        print(f"{typed}|{complete(typed)}")
