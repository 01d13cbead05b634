"""Small real models and bundles, made once for the whole run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from atom_edge.config import AtomConfig
from atom_edge.modeling import AtomForCausalLM
from atom_edge.reference import checkpoint_path

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

MakeSnapshot = Callable[..., Path]


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


@pytest.fixture(scope="session")
def make_snapshot(tmp_path_factory: pytest.TempPathFactory) -> MakeSnapshot:
    """A function that saves a random small model, with the reference tokenizer, to a new folder."""

    def make(**options: object) -> Path:
        folder = tmp_path_factory.mktemp("snapshot")
        torch.manual_seed(0)
        AtomForCausalLM(AtomConfig(**{**SMALL, **options})).save_pretrained(folder)
        for name in TOKENIZER_FILES:
            shutil.copy(checkpoint_path() / name, folder / name)
        return folder

    return make


@pytest.fixture(scope="session")
def small_snapshot(make_snapshot: MakeSnapshot) -> Path:
    """A random Atom of two layers, four query heads and two key-value heads."""
    return make_snapshot()


@pytest.fixture(scope="session")
def small_bundle(small_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of `small_snapshot`."""
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.exporters.export import export

    destination = tmp_path_factory.mktemp("bundles") / "small"
    return export(open_snapshot(small_snapshot), destination).path


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
def small_int8_bundle(small_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of `small_snapshot`."""
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.exporters.export import export

    destination = tmp_path_factory.mktemp("bundles") / "small-int8"
    return export(open_snapshot(small_snapshot), destination, quantization="int8").path


@pytest.fixture(scope="session")
def small_web_bundle(small_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of `small_snapshot` for browsers."""
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.exporters.export import export

    destination = tmp_path_factory.mktemp("bundles") / "small-web"
    snapshot = open_snapshot(small_snapshot)
    return export(snapshot, destination, quantization="int8", target="web").path


@pytest.fixture(scope="session")
def small_cuda_bundle(small_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float16 bundle of `small_snapshot` for CUDA; its graph also runs on the CPU."""
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.exporters.export import export

    destination = tmp_path_factory.mktemp("bundles") / "small-cuda"
    return export(open_snapshot(small_snapshot), destination, target="cuda").path
