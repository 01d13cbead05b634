"""One sequence over an engine: its tokens, and what is fed after them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atom_edge.runtimes.engines.choices import Choices, ChoosingCache, Chosen
from atom_edge.runtimes.engines.interface import Array, Engine, Logits, Take, check_fit


class Decoder:
    """A cache of one sequence that knows its tokens.

    A reply uses it until another begins: `begin` and `rewind` hand it over, and a reply that it was
    taken from can tell by `turn`.

    Attributes:
        token_ids: the tokens in the cache.
        turn: how many prompts it has begun.
    """

    def __init__(self, engine: Engine) -> None:
        self._cache = engine.new_cache(1)
        self._context_length = engine.context_length
        self.token_ids: list[int] = []
        self.turn = 0

    @classmethod
    def loaded(cls, engine: Engine, token_ids: Sequence[int], take: Take) -> Decoder:
        """One that holds these tokens, with what `arrays` gave of them."""
        decoder = cls(engine)
        decoder._cache.load(len(token_ids), take)
        decoder.token_ids = list(token_ids)
        return decoder

    def arrays(self) -> list[Array]:
        """What the model computed of the tokens; not to be changed."""
        return self._cache.save()

    def begin(self, prompt: Sequence[int]) -> Logits:
        """Feed what the cache does not hold of a prompt yet, and forget what is not of it.

        Returns:
            float32 `[V]`, the logits of what follows the prompt.
        """
        return self.feed(self.rewind(prompt))

    def rewind(self, prompt: Sequence[int]) -> Sequence[int]:
        """Forget what is not of a prompt; the tokens of it that the cache does not hold yet."""
        self.turn += 1
        shared = 0
        for held, wanted in zip(self.token_ids, prompt[:-1], strict=False):
            if held != wanted:
                break
            shared += 1
        self.crop(shared)
        return prompt[shared:]

    @property
    def chooses(self) -> bool:
        """Whether `choose` is there: the engine chooses tokens itself."""
        return isinstance(self._cache, ChoosingCache)

    def choose(self, token_ids: Sequence[int], choices: Choices, steps: int) -> Chosen:
        """Append tokens, then choose up to `steps` and append all of them but the last.

        Raises:
            GenerationError: as of `feed`.
        """
        assert isinstance(self._cache, ChoosingCache)
        ids = np.array([token_ids], np.int64)
        chosen = self._cache.choose(ids, np.array([len(token_ids)]), choices, steps)
        self.token_ids += token_ids
        length = int(self._cache.lengths[0])
        self.token_ids += chosen.tokens[0, : length - len(self.token_ids)].tolist()
        return chosen

    def feed(self, token_ids: Sequence[int]) -> Logits:
        """Append tokens; return float32 `[V]`, the logits of what follows the last one.

        The array may be overwritten by the next call.

        Raises:
            GenerationError: if there are no tokens, or more than the context holds.
        """
        count = len(token_ids)
        check_fit(len(self.token_ids), count, self._context_length)
        ids = np.array(token_ids, np.int64)
        logits: Logits = (self._cache.step(ids) if count == 1 else self._cache.append(ids[None]))[0]
        self.token_ids += token_ids
        return logits

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`; 0 forgets everything."""
        if length < len(self.token_ids):
            self._cache.crop(np.array([length]))
            del self.token_ids[length:]
