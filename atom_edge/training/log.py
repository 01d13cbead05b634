"""The log of a run, one JSON object a line, and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atom_edge.errors import MissingExtraError, TrainingError
from atom_edge.staging import staged_file, write_file


def append(path: Path, **record: Any) -> None:
    """Add one record to the log."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; a last line that a kill cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def forget_after(path: Path, step: int) -> None:
    """Drop the records of steps after `step`, which a resumed run writes again."""
    if path.exists():
        kept = [record for record in read_log(path) if record["step"] <= step]
        write_file(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def plot(log: Path, picture: Path) -> None:
    """Draw training and validation loss over the tokens seen.

    Raises:
        TrainingError: for a log without training records.
        MissingExtraError: without matplotlib.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError("Drawing the loss", "train", "matplotlib") from error
    records = read_log(log)
    training = [record for record in records if "loss" in record]
    validation = [record for record in records if "validation" in record]
    if not training:
        raise TrainingError(f"{log} holds no training loss to draw.")
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(
        [r["tokens"] / 1e9 for r in training],
        [r["loss"] for r in training],
        color="0.75",
        linewidth=0.8,
        label="training (mixture)",
    )
    for source in validation[-1]["validation"] if validation else ():
        axes.plot(
            [r["tokens"] / 1e9 for r in validation],
            [r["validation"][source] for r in validation],
            marker=".",
            label=f"held out: {source}",
        )
    lowest = min(r["loss"] for r in training)
    others = [loss for r in validation[1:] for loss in r["validation"].values()]
    axes.set_ylim(min([lowest, *others]) * 0.9, max([lowest * 1.5, *others]) * 1.05)
    axes.set_xlabel("tokens (billions)")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    picture.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(picture) as file:
        figure.savefig(file, dpi=120, format=picture.suffix[1:] or "png")
    pyplot.close(figure)
