"""EleutherAI's lm-evaluation-harness over bundles and snapshots.

`atom-edge eval` runs it; so does the harness's own command line, with this model registered:

    python -m atom_edge.evaluation --model atom-edge --model_args bundle=DIR --tasks arc_easy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.models import Model, open_model
from atom_edge.evaluation.progress import progress_bar
from atom_edge.evaluation.scoring import score
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.generation import Reply, generate
from atom_edge.runtimes.options import GenerationOptions
from atom_edge.runtimes.prompt import Prompt
from atom_edge.runtimes.text import TextStream

_MOST_NEW_TOKENS = 128


class AtomEdgeLM(TemplateLM):
    """A harness model whose log-likelihoods come from `score`."""

    def __init__(
        self,
        bundle: str | Model | None = None,
        snapshot: str | None = None,
        threads: int | None = None,
        **_: Any,
    ) -> None:
        """Open what is evaluated.

        Args:
            bundle: folder of a bundle, or a model that is open already.
            snapshot: folder or hub id of a snapshot, in place of a bundle.
            threads: that score at a time; as many as usable cores when None.

        Raises:
            EvaluationError: unless exactly one of `bundle` and `snapshot` is given.
        """
        super().__init__()
        if (bundle is None) == (snapshot is None):
            raise EvaluationError("Give the model as bundle=DIR or as snapshot=DIR.")
        given = snapshot if bundle is None else bundle
        self.model = given if isinstance(given, Model) else open_model(str(given), threads)

    @property
    def eot_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        return self.model.prefix_token

    @property
    def max_length(self) -> int:
        """Tokens that the model takes at most."""
        return self.model.context_length

    @property
    def tokenizer_name(self) -> str:
        """The harness keeps prepared requests under this name."""
        return self.model.name.replace(" ", "-")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids, with those that the tokenizer adds unless the text has them already."""
        encoder = self.model.tokenizer
        if add_special_tokens is None:
            beginning = encoder.id_to_token(self.eot_token_id)
            add_special_tokens = not (beginning and string.startswith(beginning))
        return encoder.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        with progress_bar(len(pairs), quiet=disable_tqdm) as progress:
            return score(self.model, pairs, progress)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token predicted once, in windows of the context."""
        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in windows:
                pairs.append(make_disjoint_window(window))
                owners.append(number)
        with progress_bar(len(pairs), quiet=disable_tqdm) as progress:
            scores = score(self.model, pairs, progress)
        sums = np.zeros(len(requests))
        np.add.at(sums, owners, [value for value, _ in scores])
        return [float(value) for value in sums]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop text."""
        replies = []
        with progress_bar(len(requests), doing="generating", quiet=disable_tqdm) as progress:
            for context, options in (request.args for request in requests):
                replies.append(self._continue(context, options))
                progress(1)
        return replies

    def _continue(self, context: str, options: dict[str, Any]) -> str:
        stops = options.get("until") or []
        room = int(options.get("max_gen_toks", _MOST_NEW_TOKENS))
        chosen = GenerationOptions(
            max_new_tokens=room,
            temperature=0,
            stop=[stop for stop in ([stops] if isinstance(stops, str) else stops) if stop],
        )
        ids = self.tok_encode(context)[-max(1, self.max_length - room) :]
        reply = Reply(
            Prompt(ids or [self.eot_token_id]),
            chosen,
            TextStream(self.model.tokenizer.detokenizer(ids), chosen.stop_texts),
            end_ids=self.model.end_tokens | {self.eot_token_id},
            context_length=self.max_length,
        )
        return "".join(piece.text for piece in generate(Decoder(self.model.engine), reply))


def register() -> None:
    """Make the harness know the model name "atom-edge"; may be called again."""
    import lm_eval.models  # noqa: F401  (an empty registry would hide the harness's own models)

    if "atom-edge" not in model_registry:
        model_registry.register("atom-edge", target="atom_edge.evaluation.harness:AtomEdgeLM")
