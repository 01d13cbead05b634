"""Evaluation of bundles and snapshots: lm-evaluation-harness, ArithMark, perplexity and KL."""

import os


def hide_inner_bars() -> None:
    """Hide the harness's bars, one for each small step; call it before the harness is imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
