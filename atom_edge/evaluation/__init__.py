"""Evaluation of bundles and snapshots: lm-evaluation-harness, ArithMark, perplexity and KL."""

import os

# The harness shows a bar for each of its small steps; ours shows the one that takes time.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
