"""Opening a Hugging Face snapshot: configuration, weights and tokenizer.

The way of the data, one module a step:

    files     the tensors in the snapshot, which `atom_edge.hub` found
    naming    the tensors under this package's names, each used exactly once
    layout    matrices as the model wants them: not transposed, not fused, not interleaved
    settings  what config.json states, under whatever names
    shapes    the configuration, from config.json and from the tensors' shapes
    loading   the model, every parameter of which is in the snapshot
    text      tokenizer, chat template, generation defaults
    author    on request: the author's own code, run and compared
    snapshot  all of it together
"""

from atom_edge.checkpoint.snapshot import Snapshot, open_snapshot

__all__ = ["Snapshot", "open_snapshot"]
