"""Options that `export` and `validate` share: what is checked, and how much may be lost."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class Effort(enum.StrEnum):
    """Values of `--validate`."""

    QUICK = "quick"
    FULL = "full"


MaxPerplexityRatio = Annotated[
    float | None,
    typer.Option(
        min=1.0, help="Most that int8's perplexity may be over PyTorch's.  [default: 1.008]"
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="Most that int8's predictions may diverge, in nats a token.  [default: 0.004]"
    ),
]
Validate = Annotated[
    Effort | None,
    typer.Option(help="Text to run: until the limits are settled, or all.  [default: quick]"),
]
