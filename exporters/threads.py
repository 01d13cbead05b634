"""How many cores PyTorch takes in a command."""

from __future__ import annotations

import os

import torch

from atom_edge.runtimes.providers import default_threads


def leave_cores_free() -> None:
    """Let PyTorch use half of the usable cores, unless OMP_NUM_THREADS says how many.

    Its threads wait for each other by spinning: with one busy core among those that they are
    spread over, what takes a second takes a minute.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(default_threads())
