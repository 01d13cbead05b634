"""A provider that cannot be had is an error; threads follow what the process may use."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import BundleError, GenerationError, MissingExtraError, ProviderError
from atom_edge.runtimes import installation, providers
from atom_edge.runtimes.providers import (
    check_placement,
    default_threads,
    open_graph,
    serving_threads,
    usable_cores,
)
from atom_edge.runtimes.session import AtomSession


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime without CUDA in it."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that says that it has CUDA, and makes sessions that run on the CPU."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)


@pytest.mark.usefixtures("no_cuda")
def test_cuda_that_cannot_be_had_is_an_error(small_bundle: Path, small_cuda_bundle: Path) -> None:
    for bundle in (small_bundle, small_cuda_bundle):
        with pytest.raises(ProviderError, match=r"no CUDA in it.*'\.\[cuda\]"):
            AtomSession.from_pretrained(bundle, provider="cuda")


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_cpu_where_cuda_cannot_be_had(small_cuda_bundle: Path) -> None:
    session = AtomSession.from_pretrained(small_cuda_bundle, provider="auto")
    assert session.device == "cpu"
    assert "no CUDA in it" in str(session.why_not_cuda)
    assert session.generate("The", max_new_tokens=3).generation_tokens == 3
    assert AtomSession.from_pretrained(small_cuda_bundle).why_not_cuda is None


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_cuda_that_onnxruntime_drops_in_silence_is_an_error(small_cuda_bundle: Path) -> None:
    with pytest.raises(ProviderError, match="could not start it"):
        AtomSession.from_pretrained(small_cuda_bundle, provider="cuda")
    session = AtomSession.from_pretrained(small_cuda_bundle, provider="auto")
    assert session.device == "cpu"
    assert "could not start it" in str(session.why_not_cuda)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_libraries_that_do_not_load_are_named_and_nothing_is_printed(
    small_cuda_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime prints on stdout, where a command's text goes."""
    printed = "Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(printed))
    with pytest.raises(ProviderError, match=r"libcublas\.so\.13 cannot be loaded.*cuda,cudnn"):
        AtomSession.from_pretrained(small_cuda_bundle, provider="cuda")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_gpu")
def test_a_bundle_for_cpus_says_how_to_export_one_for_cuda(small_bundle: Path) -> None:
    with pytest.raises(ProviderError, match=r"no graph for CUDA.*export --target cuda"):
        AtomSession.from_pretrained(small_bundle, provider="cuda")


def test_a_node_on_another_provider_is_named(small_cuda_bundle: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    graph = open_bundle(small_cuda_bundle).graph("cuda")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    check_placement(session, "CPUExecutionProvider")
    with pytest.raises(ProviderError, match=r"2 GroupQueryAttention on CPUExecutionProvider"):
        check_placement(session, "CUDAExecutionProvider")


def test_an_unknown_provider_is_an_error(small_bundle: Path) -> None:
    with pytest.raises(ProviderError, match="'tpu'; choose one of cpu, cuda, auto"):
        AtomSession.from_pretrained(small_bundle, provider="tpu")  # type: ignore[arg-type]


def test_a_server_has_a_batch_for_each_core_or_all_cores_for_one_batch(tmp_path: Path) -> None:
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    for graph, size in ((small, 2**20), (large, 2**24)):
        with graph.open("wb") as file:
            file.truncate(size)
    assert serving_threads(small, 3) == (3, 1)
    assert serving_threads(large, 3) == (1, 3)
    for threads in (0, 1025):
        with pytest.raises(GenerationError, match=f"threads is {threads}"):
            serving_threads(small, threads)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**11, 1.5, "2"])
def test_threads_that_are_none_are_an_error(small_bundle: Path, threads: int) -> None:
    with pytest.raises(GenerationError, match=f"threads is {threads!r}; it must be an integer"):
        open_graph(open_bundle(small_bundle).graph(), threads=threads)


def test_a_file_that_is_no_graph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(BundleError, match=r"onnxruntime .* cannot run .*model\.onnx"):
        open_graph(tmp_path / "model.onnx")


def test_without_onnxruntime_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(installation, "installed_flavours", dict)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[cpu\]'"):
        open_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (9, 4), (128, 4)]
)
def test_threads_are_half_of_the_cores_and_few(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "usable_cores", lambda: cores)
    assert default_threads() == threads


def test_a_small_graph_gets_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "usable_cores", lambda: 8)
    graph = tmp_path / "model.onnx"
    for size, threads in ((100, 1), (2**24 - 1, 1), (2**24, 4)):
        with graph.open("wb") as file:
            file.truncate(size)
        assert default_threads(graph) == threads


@pytest.mark.parametrize(("threads", "spin"), [(None, "0"), (1, "1"), (2, "1")])
def test_only_threads_that_were_asked_for_spin(
    threads: int | None, spin: str, small_bundle: Path
) -> None:
    session = open_graph(open_bundle(small_bundle).graph(), threads=threads)
    options = session.get_session_options()
    assert options.intra_op_num_threads == (threads or 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spin


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "garbage\n"}, None),
        ({}, None),
    ],
)
def test_a_container_s_quota_is_read(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert providers._cgroup_quota(tmp_path) == quota


def test_affinity_and_quota_both_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for quota, cores in ((None, 8), (2.5, 2), (0.5, 1), (64.0, 8)):
        monkeypatch.setattr(providers, "_cgroup_quota", lambda _, quota=quota: quota)
        assert usable_cores() == cores


def test_what_fails_in_a_run_is_an_error_of_ours(
    small_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = open_graph(open_bundle(small_bundle).graph())
    with pytest.raises(BundleError, match=r"onnxruntime .* failed in the graph: .*input_ids"):
        session.run(None, {})
    feeds = {
        value.name: np.zeros(
            [size if isinstance(size, int) else 1 for size in value.shape],
            np.float32 if value.name.startswith("past") else np.int64,
        )
        for value in session.get_inputs()
    }
    feeds["input_ids"][:] = 10**9  # beyond the embedding
    with pytest.raises(BundleError, match="failed in the graph"):
        session.run(None, feeds)
    assert capfd.readouterr() == ("", "")


def test_a_session_keeps_no_second_copy_of_its_weights(small_bundle: Path) -> None:
    graph = open_bundle(small_bundle).read_graph()
    before = sys.getrefcount(graph)
    session = open_graph(graph)
    assert sys.getrefcount(graph) == before
    assert session.get_inputs()
