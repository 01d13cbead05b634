"""Engines: what runs graphs and holds caches, behind the verbs of `interface`."""

from __future__ import annotations

from typing import NamedTuple, get_args

from atom_edge.bundle import Bundle
from atom_edge.errors import ProviderError
from atom_edge.manifest import Role
from atom_edge.runtimes import native as native_library  # there is an engine of that name
from atom_edge.runtimes.engines.interface import Engine
from atom_edge.runtimes.providers import Provider


class Opened(NamedTuple):
    """An engine, and where the provider was "auto" and is not CUDA, the reason."""

    engine: Engine
    why_not_cuda: str | None


def open_engine(bundle: Bundle, provider: Provider = "cpu", threads: int | None = None) -> Opened:
    """The fastest engine that a bundle has graphs for.

    Args:
        bundle: verified.
        provider: "cpu"; "cuda", which is an error where it cannot be had; or "auto", for CUDA
            where it can be had.
        threads: of one run, at most; see `open_graph`.

    Raises:
        BundleError: if the graph cannot run here.
        ProviderError: if the provider cannot be had.
    """
    if provider not in get_args(Provider):
        raise ProviderError(
            f"There is no provider {provider!r}; choose one of {', '.join(get_args(Provider))}."
        )
    if provider == "cpu":
        return Opened(_on_cpu(bundle, threads), None)
    from atom_edge.runtimes.engines.cuda import CudaEngine

    try:
        return Opened(CudaEngine.open(bundle), None)
    except ProviderError as error:
        if provider == "cuda":
            raise
        return Opened(_on_cpu(bundle, threads), str(error))


def _on_cpu(bundle: Bundle, threads: int | None) -> Engine:
    if Role.NATIVE in bundle.roles and native_library.library() is not None:
        from atom_edge.runtimes.engines.native import NativeEngine

        return NativeEngine.open(bundle, threads)
    # Older bundles have it in int8, which took activations of many tokens by one scale.
    if Role.PREFILL in bundle.roles and bundle.manifest.quantization == "none":
        from atom_edge.runtimes.engines.static import StaticEngine

        return StaticEngine.open(bundle, threads)
    from atom_edge.runtimes.engines.portable import PortableEngine

    return PortableEngine.open(bundle, threads)
