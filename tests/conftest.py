"""Small real models and bundles, made once for the whole run."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from atom_edge.config import AtomConfig
from atom_edge.exporters.trace import trace
from atom_edge.modeling import AtomForCausalLM
from atom_edge.reference import checkpoint_path
from atom_edge.runtimes import native
from atom_edge.runtimes.native import build as builder
from atom_edge.torch_decoder import TorchDecoder

# Two test processes share two cores. PyTorch's threads wait for each other by spinning: with more
# than one for each process, what takes a second takes a minute. For child processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# A shell's background job ignores the one, `nohup` the other, and child processes would too.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "eos_token_id": [2, 4],
}

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

MakeSnapshot = Callable[..., Path]


def best_instruction_set() -> str:
    """The instruction set that the native library chooses here."""
    path = native.library()
    assert path is not None
    function = ctypes.CDLL(str(path)).atom_edge_instruction_set
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()


def npm_install(folder: Path) -> Path:
    """The `node_modules` of a folder; kept, since installing takes a while."""
    with (folder / "node_modules.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not (folder / "node_modules" / ".package-lock.json").is_file():
            command = "ci" if (folder / "package-lock.json").is_file() else "install"
            subprocess.run(
                ["npm", command, "--silent", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder,
                check=True,
                timeout=400,
            )
    return folder / "node_modules"


@pytest.fixture(scope="session")
def transformers_js() -> Path:
    """The `node_modules` that has transformers.js."""
    return npm_install(Path(__file__).parent / "foreign")


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


class SharedFolder:
    """What the processes of a test run share; made once, by the first that asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The path `name`, made by `make` the first time; other processes wait for it."""
        path = self.folder / name
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = self.folder / f"{name}.made"
            if not made.exists():
                shutil.rmtree(path, ignore_errors=True)  # of one that failed
                make(path)
                made.touch()
        return path

    def trace(self, decoder: TorchDecoder) -> ir.Model:
        """`trace`, done once for models of the same class, shape and weights."""
        kind = type(decoder.model)
        if kind.__module__.split(".")[0] not in ("atom_edge", "transformers"):
            return trace(decoder)  # an author's own: two may have one name
        digest = hashlib.sha256(f"{kind}{decoder.model.config.to_json_string()}".encode())
        for name, weight in decoder.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.numpy().tobytes())
        file = self.once(
            f"trace-{digest.hexdigest()[:16]}.onnx", lambda path: ir.save(trace(decoder), path)
        )
        return ir.load(file)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedFolder:
    """What the test processes make once for all of them."""
    folder = tmp_path_factory.getbasetemp()
    return SharedFolder((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "run")


@pytest.fixture(scope="session", autouse=True)
def _traces_are_shared(shared: SharedFolder) -> Iterator[None]:
    """An export in a test's own process takes the trace of a model that another one traced.

    Tracing is most of what a small export costs. Tests of tracing call it, and commands in
    processes of their own do it too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atom_edge.exporters.graphs.trace", shared.trace)
        yield


def save_model(folder: Path, **options: object) -> None:
    """Save a random small model, with the reference tokenizer."""
    torch.manual_seed(0)
    AtomForCausalLM(AtomConfig(**{**SMALL, **options})).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(checkpoint_path() / name, folder / name)


@pytest.fixture(scope="session")
def make_snapshot(tmp_path_factory: pytest.TempPathFactory) -> MakeSnapshot:
    """A function that saves a random small model, with the reference tokenizer, to a new folder."""

    def make(**options: object) -> Path:
        folder = tmp_path_factory.mktemp("snapshot")
        save_model(folder, **options)
        return folder

    return make


@pytest.fixture(scope="session")
def small_snapshot(shared: SharedFolder) -> Path:
    """A random Atom of two layers, four query heads and two key-value heads."""
    return shared.once("snapshot", save_model)


@pytest.fixture(scope="session")
def export_small(shared: SharedFolder, small_snapshot: Path) -> Callable[..., Path]:
    """A function that exports `small_snapshot`, once for the whole run, to a bundle so named."""
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.exporters.export import export

    def bundle(name: str, **options: object) -> Path:
        return shared.once(
            name, lambda path: export(open_snapshot(small_snapshot), path, **options)
        )

    return bundle


@pytest.fixture(scope="session")
def sanitized(shared: SharedFolder) -> Path:
    """A folder with the native library under sanitizers, and its objects.

    Of the instruction sets it has those that run here: the best, and the plain one.
    """

    def build(folder: Path) -> None:
        machine, best = builder.find_compiler().machine, f"isa_{best_instruction_set()}"
        sets = {machine: {best: builder.INSTRUCTION_SETS[machine][best]}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builder, "INSTRUCTION_SETS", sets)
            patch.setenv("CXXFLAGS", shlex.join(("-O1", "-g1", *SANITIZERS)))
            builder.build(folder, folder / "objects")

    return shared.once("sanitized", build)


@pytest.fixture(scope="session")
def small_bundle(export_small: Callable[..., Path]) -> Path:
    """The float32 bundle of `small_snapshot`."""
    return export_small("small")


@pytest.fixture(scope="session")
def chat_bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_bundle` with a chat template: a line `r: content` each, r the first of the role."""
    from atom_edge.bundle import open_bundle, seal

    folder = tmp_path_factory.mktemp("chat") / "bundle"
    shutil.copytree(small_bundle, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": CHAT_TEMPLATE})
    )
    seal(folder, open_bundle(small_bundle).manifest)
    return folder


@pytest.fixture(scope="session")
def small_int8_bundle(export_small: Callable[..., Path]) -> Path:
    """The int8 bundle of `small_snapshot`."""
    return export_small("small-int8", quantization="int8")


@pytest.fixture(scope="session")
def small_web_bundle(export_small: Callable[..., Path]) -> Path:
    """The int8 bundle of `small_snapshot` for browsers."""
    return export_small("small-web", quantization="int8", target="web")


@pytest.fixture(scope="session")
def small_cuda_bundle(export_small: Callable[..., Path]) -> Path:
    """The float16 bundle of `small_snapshot` for CUDA; its graph also runs on the CPU."""
    return export_small("small-cuda", target="cuda")
