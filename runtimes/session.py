"""A bundle, loaded: text in, text out."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, Unpack

from atom_edge.bundle import Bundle, open_bundle
from atom_edge.errors import BundleError, GenerationError
from atom_edge.hub import find_bundle
from atom_edge.runtimes.asynchronous import in_thread, until
from atom_edge.runtimes.batch import Batch, generate_batch, stream_batch
from atom_edge.runtimes.constraint import Constraints
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.defaults import Defaults, special_ids
from atom_edge.runtimes.engines import open_engine
from atom_edge.runtimes.engines.interface import Device
from atom_edge.runtimes.generation import Reply, generate
from atom_edge.runtimes.healing import Healer
from atom_edge.runtimes.options import GenerationOptions, LogitsProcessor, Options
from atom_edge.runtimes.prompt import Prompt, PromptEncoder
from atom_edge.runtimes.providers import Provider
from atom_edge.runtimes.reply import Generation, Piece, collect
from atom_edge.runtimes.saved_cache import open_cache, save_cache
from atom_edge.runtimes.template import ChatTemplate, Message
from atom_edge.runtimes.text import TextStream
from atom_edge.tokenizer import Tokenizer

T = TypeVar("T")


class AtomSession:
    """A model that is ready to continue text.

    The prompt and the reply together hold at most `context_length` tokens. Of a longer prompt the
    last `context_length - 1` are kept, and `truncated_tokens` says how many were dropped; a reply
    that fills the context ends with the finish reason "length".

    Threads may share a session: each reply has a cache of its own.

    Attributes:
        bundle: what it was loaded from.
        tokenizer: the bundle's.
        defaults: what the bundle says of options that a caller leaves out.
        end_ids: tokens that end a reply.
        device: where it runs, "cpu" or "cuda".
        why_not_cuda: where the provider is "auto" and `device` is "cpu", the reason.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, provider: Provider = "cpu"
    ) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer.from_file(bundle.tokenizer_file)
        self._engine, self.why_not_cuda = open_engine(bundle, provider, threads)
        self.device: Device = self._engine.device
        self._prompt = PromptEncoder(bundle, self.tokenizer, self._engine.vocab_size)
        self.defaults = Defaults.of(bundle)
        self.end_ids = frozenset(special_ids(bundle).end)
        self._lock = threading.Lock()
        self._template: ChatTemplate | None = None
        self._constraints = Constraints(bundle, self._engine.vocab_size, sorted(self.end_ids))

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path | None = None,
        threads: int | None = None,
        provider: Provider = "cpu",
    ) -> AtomSession:
        """Verify and load a bundle.

        Args:
            bundle: its folder, or a hub id; the reference bundle of this package when None.
            threads: threads of one run at most, on cores that nothing else wants; when None, few
                that give way to others. A small model runs on one in any case. See `open_graph`.
            provider: "cpu"; "cuda", which needs a bundle exported for it and is an error where it
                cannot be had; or "auto", for CUDA where it can be had: `device` says which it was.

        Raises:
            BundleError: if it is no bundle, or not one that can run here.
            IntegrityError: if a file is missing, changed or unsafe.
            ProviderError: if the provider cannot be had.
        """
        opened = open_bundle(find_bundle(bundle))
        return cls(opened, threads=threads, provider=provider)

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        kind = str(manifest.quantization).replace("none", "float32")
        return (
            f"<AtomSession {manifest.source.repo or self.bundle.path.name!r}: {kind} on "
            f"{self.device}, context {self.context_length}, {self.tokenizer.vocab_size} tokens>"
        )

    @property
    def context_length(self) -> int:
        """The longest sequence, prompt and reply together, in tokens."""
        return self.bundle.context_length

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Generation:
        """Continue a text, or token ids, and return the whole reply.

        Args:
            prompt: text or token ids; empty to begin a document.
            options: max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed,
                stop, logprobs; see `GenerationOptions`.

        Raises:
            GenerationError: for an option outside its range, or a token id that does not exist.
            TokenizerError: for a prompt that is not valid Unicode.
        """
        return collect(list(self.stream(prompt, **options)), self.end_ids)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        decoder: Decoder | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Piece]:
        """Continue a text, or token ids; yield one piece for each token of the reply.

        Prompt and options are those of `generate` and are checked at once; the model runs as the
        pieces are asked for.

        Args:
            prompt: text or token ids; empty to begin a document.
            decoder: one from `new_decoder`, whose cache is used as far as it holds the beginning
                of the prompt: faster, and equal but for rounding. None for a new one.
            cancel: once another thread has set it, the next piece is the last, with the finish
                reason "cancelled".
            options: see `GenerationOptions`.
        """
        if not isinstance(decoder, Decoder | None):
            raise GenerationError(
                f"decoder is {reprlib.repr(decoder)}; it must be one from new_decoder, or None."
            )
        pieces = generate(decoder or self.new_decoder(), self.new_reply(prompt, **options))
        return pieces if cancel is None else until(cancel, pieces)

    async def agenerate(
        self, prompt: str | Sequence[int], **options: Unpack[Options]
    ) -> Generation:
        """`generate` for asyncio: the event loop runs on meanwhile."""
        return collect([piece async for piece in self.astream(prompt, **options)], self.end_ids)

    def astream(
        self,
        prompt: str | Sequence[int],
        *,
        decoder: Decoder | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Piece]:
        """`stream` for asyncio: the event loop runs on while the model does.

        A task that is cancelled, or a loop that is left, stops the reply; use
        `contextlib.aclosing` where that must be at once.
        """
        cancel = threading.Event()
        return in_thread(self.stream(prompt, decoder=decoder, cancel=cancel, **options), cancel)

    @property
    def is_chat(self) -> bool:
        """Whether the bundle has a chat template."""
        return self.bundle.chat_template is not None

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> Generation:
        """The model's next message; see `Conversation` for one that stays within the context.

        Args:
            messages: each with `role` ("system", "user" or "assistant") and `content`.
            options: those of `generate`.

        Raises:
            BundleError: if the bundle has no chat template, or its template fails.
            GenerationError: for messages or options that are none.
        """
        return self.generate(self.chat_prompt(messages), **options)

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation, up to where the model's next message begins.

        Messages and errors are those of `chat`; `stream` takes the ids.
        """
        for message in _sequence(messages):
            if not (isinstance(message, Mapping) and isinstance(message.get("role"), str)):
                raise GenerationError(
                    f"{reprlib.repr(message)} is no message: that is a dict such as "
                    '{"role": "user", "content": "Hello"}.'
                )
        with self._lock:
            if self._template is None:
                if self.bundle.chat_template is None:
                    raise BundleError(
                        "This bundle has no chat template: the model continues text and knows no "
                        "messages. Use `generate` with a text."
                    )
                self._template = ChatTemplate(
                    self.bundle.chat_template, self.bundle.tokenizer_config
                )
        return self.tokenizer.encode(self._template.render(messages))

    def generate_batch(
        self, prompts: Sequence[str | Sequence[int]], **options: Unpack[Options]
    ) -> list[Generation]:
        """Continue several prompts at once; each reply is that of `generate`, but for rounding.

        Args:
            prompts: texts or token ids.
            options: of every reply; see `GenerationOptions`. A seed is that of each reply.

        Returns:
            the replies, in the order of the prompts.
        """
        return generate_batch(self._engine, self._new_replies(prompts, options), self.end_ids)

    def stream_batch(
        self, prompts: Sequence[str | Sequence[int]], **options: Unpack[Options]
    ) -> Iterator[tuple[int, Piece]]:
        """`generate_batch` as it comes: the number of a prompt, and the next piece of its reply.

        Arguments are those of `generate_batch` and are checked at once.
        """
        return stream_batch(self._engine, self._new_replies(prompts, options))

    def _new_replies(self, prompts: Sequence[str | Sequence[int]], options: Options) -> list[Reply]:
        if not isinstance(prompts, Sequence) or isinstance(prompts, str | bytes):
            raise GenerationError(
                f"prompts is {reprlib.repr(prompts)}; generate_batch takes a list of prompts."
            )
        GenerationOptions.of(options)  # what is wrong is said of no prompts, too
        return [self.new_reply(prompt, **options) for prompt in prompts]

    def new_reply(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Reply:
        """What becomes of a prompt, before anything has; `generate` has arguments and errors."""
        encoded = self._prompt(prompt)
        defaults = self.defaults.options(len(encoded.token_ids))
        chosen = GenerationOptions.of({**defaults, **options})
        processors = list(chosen.logits_processors)
        skip = 0
        if chosen.heal:
            encoded, rewriting, skip = self._healed(encoded)
            processors.append(rewriting)
        if constraint := self._constraints.of(chosen):
            processors.append(constraint)
        if processors:
            chosen = dataclasses.replace(chosen, logits_processors=processors)
        return Reply(
            encoded,
            chosen,
            TextStream(self.tokenizer.detokenizer(encoded.token_ids), chosen.stop_texts, skip),
            end_ids=self.end_ids,
            context_length=self.context_length,
        )

    def _healed(self, prompt: Prompt) -> tuple[Prompt, LogitsProcessor, int]:
        """A prompt without what the reply writes anew, what makes it, and how many characters."""
        kept, removed = self._healer.split(prompt.token_ids)
        detokenizer = self.tokenizer.detokenizer(kept)
        text = "".join(map(detokenizer.push, removed)) + detokenizer.flush()
        shorter = dataclasses.replace(prompt, token_ids=kept)
        return shorter, self._healer.rewriting(removed), len(text)

    @functools.cached_property
    def _healer(self) -> Healer:
        return Healer(self.tokenizer, self._engine.vocab_size)

    def new_batch(self, size: int) -> Batch:
        """Room for `size` replies at once, which join and leave as they like."""
        return Batch(self._engine, size)

    def new_decoder(self) -> Decoder:
        """A cache of no tokens, for `stream`."""
        return Decoder(self._engine)

    def save_cache(self, decoder: Decoder, path: str | Path) -> None:
        """Write what a decoder holds to a file, for `open_cache`.

        The file is written aside and put in place whole. It grows with the tokens: of the
        reference model, each takes 4 KB.

        Args:
            decoder: one of this session.
            path: of the file; one that is there is replaced.

        Raises:
            CacheError: if the decoder holds no tokens, or the file cannot be written.
        """
        save_cache(decoder, self.bundle, self._engine, path)

    def open_cache(self, path: str | Path) -> Decoder:
        """A decoder, for `stream`, that holds what was saved: that part of a prompt costs nothing.

        Raises:
            CacheError: if it is no file of `save_cache`, is damaged, or was made by another graph.
        """
        return open_cache(self.bundle, self._engine, path)


def _sequence(given: Sequence[T]) -> Sequence[T]:
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise GenerationError(f"{reprlib.repr(given)} must be a list of prompts or messages.")
    return given
