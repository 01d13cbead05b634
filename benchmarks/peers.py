"""What atom-edge is measured against: how each peer is installed, given its model, and started."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "atom_edge" / "reference" / "checkpoint"

# One environment for each set of packages that can live together. llama-cpp-python builds
# llama.cpp from its source distribution, for the processor that it is built on; but without its
# code for Intel's AMX, which crashes on this model (Q8_0, llama-cpp-python 0.3.36).
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "hugging_face": (
        "torch<2.14",
        "optimum-onnx[onnxruntime]",
        "accelerate",
        "ctranslate2",
        "gguf",
    ),
    "genai": ("onnxruntime-genai", "onnx_ir", "onnx", "torch<2.14", "transformers"),
    "llama_cpp": ("llama-cpp-python[server]",),
}
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" if platform.machine() == "x86_64" else ""
_BUILD = {"CFLAGS": _NO_AMX, "CXXFLAGS": _NO_AMX}


@dataclass(frozen=True)
class Peer:
    """A tool that runs the model.

    Attributes:
        name: as tables show it.
        environment: key of `ENVIRONMENTS`; None for the one that runs this.
        worker: its file in `workers/`.
        model: what it loads, under the folder of models.
    """

    name: str
    environment: str | None
    worker: str
    model: str


OURS = "atom-edge int8"
PEERS = (
    Peer(OURS, None, "run_atom_edge.py", "atom_edge"),
    Peer("onnxruntime-genai int8", "genai", "run_genai.py", "genai_int8"),
    Peer("onnxruntime-genai int4", "genai", "run_genai.py", "genai_int4"),
    Peer("llama.cpp Q8_0", "llama_cpp", "run_llama_cpp.py", "Q8_0.gguf"),
    Peer("llama.cpp Q4_0", "llama_cpp", "run_llama_cpp.py", "Q4_0.gguf"),
    Peer("ctranslate2 int8", "hugging_face", "run_ctranslate2.py", "ctranslate2"),
    Peer("optimum int8", "hugging_face", "run_hugging_face.py", "optimum"),
    Peer("transformers fp32", "hugging_face", "run_hugging_face.py", "llama"),
)


def python(environments: Path, name: str | None) -> Path:
    """The interpreter of an environment."""
    return Path(sys.executable) if name is None else environments / name / "bin" / "python"


def set_up(work: Path) -> None:
    """Install the environments and convert the models that are not there yet, under `work`."""
    environments, models = work / "peers", work / "models"
    for name, packages in ENVIRONMENTS.items():
        done = environments / name / ".installed"
        if not done.exists():
            print(f"installing {name}: {', '.join(packages)}", file=sys.stderr)
            run([sys.executable, "-m", "venv", environments / name])
            # Without pip's cache: a wheel that was built with other flags would be taken from it.
            pip = [python(environments, name), "-m", "pip", "install", "-q", "--no-cache-dir"]
            run([*pip, *packages])
            done.touch()
    if not (models / "optimum" / "model_quantized.onnx").exists():
        print("converting the models", file=sys.stderr)
        hugging_face = python(environments, "hugging_face")
        run([hugging_face, HERE / "convert.py", models, REFERENCE])
    for kind in ("int8", "int4"):
        folder = models / f"genai_{kind}"
        if not (folder / "genai_config.json").exists():
            builder = ["-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", kind]
            places = ["-i", models / "llama", "-o", folder, "-c", models / "cache"]
            run([python(environments, "genai"), *builder, *places])


def run(command: list[str | Path]) -> None:
    """Run a command quietly; its output is shown if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | _BUILD,
    )
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}\n{done.stderr}")


def command(peer: Peer, work: Path, bundle: Path, threads: int) -> list[str]:
    """The command line of a peer's worker."""
    model = bundle if peer.environment is None else work / "models" / peer.model
    interpreter = python(work / "peers", peer.environment)
    return [
        *map(str, (interpreter, HERE / "workers" / peer.worker, model)),
        "--threads",
        str(threads),
    ]


def environment() -> dict[str, str]:
    """The environment of a worker: no hub, no telemetry."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
