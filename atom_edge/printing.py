"""Text from outside as it may be printed: nothing in it moves the cursor or hides text."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters and lone surrogates written as escapes, such as `\\x1b`.

    Args:
        text: any text.
        keep: the control characters that may pass, such as a newline.
    """
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1]
        for character in text
    )
