"""A bundle, loaded: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Unpack, get_args

from atom_edge.bundle import Bundle, open_bundle
from atom_edge.errors import ProviderError
from atom_edge.reference import bundle_path
from atom_edge.runtimes.batch import RaggedCache, generate_batch
from atom_edge.runtimes.decoder import Decoder, PortableDecoder, PortableGraph
from atom_edge.runtimes.device_cache import DeviceCache, DeviceDecoder
from atom_edge.runtimes.device_graph import Device, DeviceGraph
from atom_edge.runtimes.generation import generate
from atom_edge.runtimes.options import GenerationOptions, Options
from atom_edge.runtimes.prompt import PromptEncoder, token_ids
from atom_edge.runtimes.providers import Provider, check_cuda, open_graph
from atom_edge.runtimes.reply import Generation, Piece, collect
from atom_edge.runtimes.static_cache import StaticCache
from atom_edge.runtimes.static_decoder import StaticDecoder
from atom_edge.runtimes.static_graphs import StaticGraphs
from atom_edge.runtimes.text import TextStream
from atom_edge.tokenizer import Tokenizer


class _Decoders(NamedTuple):
    """What makes decoders over the graphs that are fastest on a device."""

    make: Callable[[], Decoder]
    vocab_size: int
    new_cache: Callable[[int], RaggedCache] | None  # None where sequences run one by one


class AtomSession:
    """A model that is ready to continue text.

    The prompt and the reply together hold at most `context_length` tokens. Of a longer prompt the
    last `context_length - 1` are kept, and `truncated_tokens` says how many were dropped; a reply
    that fills the context ends with the finish reason "length".

    Threads may share a session: each reply has a cache of its own.

    Attributes:
        bundle: what it was loaded from.
        tokenizer: the bundle's.
        device: where it runs, "cpu" or "cuda".
        why_not_cuda: where the provider is "auto" and `device` is "cpu", the reason.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        provider: Provider = "cpu",
        lookahead: bool = True,
    ) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer.from_file(bundle.tokenizer_file)
        self._decoders, self.device, self.why_not_cuda = _open(bundle, provider, threads)
        self._prompt = PromptEncoder(bundle, self.tokenizer, self._decoders.vocab_size)
        self._lookahead = lookahead
        self._end_ids = frozenset(token_ids(bundle, "eos_token_id"))

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path | None = None,
        threads: int | None = None,
        provider: Provider = "cpu",
        lookahead: bool = True,
    ) -> AtomSession:
        """Verify and load a bundle.

        Args:
            bundle: its folder; the reference bundle of this package when None.
            threads: threads of one run at most, on cores that nothing else wants; when None, few
                that give way to others. A small model runs on one in any case. See `open_graph`.
            provider: "cpu"; "cuda", which needs a bundle exported for it and is an error where it
                cannot be had; or "auto", for CUDA where it can be had: `device` says which it was.
            lookahead: guess at greedy text that repeats itself, where that cannot change it; see
                `runtimes/lookahead.py`.

        Raises:
            BundleError: if it is no bundle, or not one that can run here.
            IntegrityError: if a file is missing, changed or unsafe.
            ProviderError: if the provider cannot be had.
        """
        opened = open_bundle(bundle_path() if bundle is None else bundle)
        return cls(opened, threads=threads, provider=provider, lookahead=lookahead)

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
        return collect(list(self.stream(prompt, **options)), self._end_ids)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        decoder: Decoder | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Piece]:
        """Continue a text, or token ids; yield one piece for each token of the reply.

        Prompt and options are those of `generate` and are checked at once; the model runs as the
        pieces are asked for.

        Args:
            prompt: text or token ids; empty to begin a document.
            decoder: one from `new_decoder`, whose cache is used as far as it holds the beginning
                of the prompt: faster, and equal but for rounding. None for a new one.
            options: see `GenerationOptions`.
        """
        chosen = GenerationOptions(**options)
        decoder = decoder or self.new_decoder()
        decoder.looks_ahead = self._lookahead and chosen.is_greedy
        return generate(
            decoder,
            self._prompt(prompt),
            chosen,
            TextStream(self.tokenizer.detokenizer(), chosen.stop_texts),
            end_ids=self._end_ids,
            context_length=self.context_length,
        )

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
        chosen = GenerationOptions(**options)
        if not prompts or self._decoders.new_cache is None:
            return [self.generate(prompt, **options) for prompt in prompts]
        encoded = [self._prompt(prompt) for prompt in prompts]
        return generate_batch(
            self._decoders.new_cache(len(encoded)),
            encoded,
            chosen,
            lambda: TextStream(self.tokenizer.detokenizer(), chosen.stop_texts),
            end_ids=self._end_ids,
            context_length=self.context_length,
        )

    def new_decoder(self) -> Decoder:
        """A cache of no tokens, for `stream`."""
        return self._decoders.make()


def _open(
    bundle: Bundle, provider: Provider, threads: int | None
) -> tuple[_Decoders, Device, str | None]:
    """The decoders on what `provider` names; what that is; and of "auto", why it is not CUDA."""
    if provider not in get_args(Provider):
        raise ProviderError(
            f"There is no provider {provider!r}; choose one of {', '.join(get_args(Provider))}."
        )
    if provider == "cpu":
        return _on_cpu(bundle, threads), "cpu", None
    try:
        return _on_cuda(bundle), "cuda", None
    except ProviderError as error:
        if provider == "cuda":
            raise
        return _on_cpu(bundle, threads), "cpu", str(error)


def _on_cuda(bundle: Bundle) -> _Decoders:
    check_cuda()
    if "cuda" not in bundle.roles:
        raise ProviderError(
            f"The bundle {bundle.path} has no graph for CUDA. Export the model again with: "
            "atom-edge export --target cuda"
        )
    graph = DeviceGraph(bundle.graph("cuda"), "cuda", bundle.context_length)
    return _Decoders(partial(DeviceDecoder, graph), graph.vocab_size, partial(DeviceCache, graph))


def _on_cpu(bundle: Bundle, threads: int | None) -> _Decoders:
    context = bundle.context_length
    if "prefill" in bundle.roles:
        graphs = StaticGraphs.of(bundle, threads)
        new_cache = partial(StaticCache, graphs, context)
        return _Decoders(partial(StaticDecoder, graphs, context), graphs.vocab_size, new_cache)
    graph = PortableGraph(open_graph(bundle.graph(), threads=threads))
    return _Decoders(partial(PortableDecoder, graph, context), graph.vocab_size, None)
