"""Instructions a token on emulated ARM CPUs, for each engine of an int8 bundle.

usage: arm_instructions.py BUNDLE > benchmarks/results-arm.md
needs: .ci/arm-setup has run; root; the Debian packages qemu-user and gcc

Each is run twice, for fewer and for more tokens, one thread; the difference leaves out
everything but the tokens. Instructions are counted and not timed: compare a column's rows.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent
ROOT = Path(os.environ.get("ATOM_EDGE_ARM", "~/.cache/atom-edge/arm")).expanduser() / "root"
CPUS = ("cortex-a72", "cortex-a76")
FEWER, MORE = 8, 40
CROSS = {
    "CXX": "aarch64-linux-gnu-g++",
    "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    "ATOM_EDGE_NATIVE": "required",
}
ENGINES = {"native operator": "native()", "portable graph": "portable()"}
INTRODUCTION = """\
# Instructions a token on ARM, millions

The reference model in int8, one thread, on CPUs that QEMU emulates: a Cortex-A72 is that of a
Raspberry Pi 4, a Cortex-A76 that of a Raspberry Pi 5. Instructions are counted and not timed.
`python benchmarks/arm_instructions.py` makes this page.
"""
GUEST = """
import sys
from pathlib import Path
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.native import NativeEngine
from atom_edge.runtimes.engines.portable import PortableEngine, PortableGraph
from atom_edge.runtimes.providers import open_graph

onnx = Path(sys.argv[1]) / "onnx"

def native():
    return NativeEngine((onnx / "native.onnx").read_bytes(), 512, 1)

def portable():
    session = open_graph(onnx / "model_quantized.onnx", threads=1)
    return PortableEngine(PortableGraph(session), 512)

decoder = Decoder(eval(sys.argv[2]))
decoder.feed([300 + token for token in range(16)])
for step in range(int(sys.argv[3])):
    decoder.feed([400 + step])
"""


def count(plugin: Path, package: Path, bundle: Path, cpu: str, engine: str, tokens: int) -> int:
    qemu = ["qemu-aarch64", "-L", ROOT, "-cpu", cpu, "-plugin", plugin]
    guest = [ROOT / "usr/bin/python3", "-c", GUEST, bundle, engine, str(tokens)]
    # The host's /proc and /sys describe another CPU, and onnxruntime crashes over that.
    hide = 'mount -t tmpfs none /proc && mount -t tmpfs none /sys && exec "$@"'
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{package}:{ROOT / 'site'}",
        "PYTHONHOME": str(ROOT / "usr"),
        "PYTHONHASHSEED": "0",
    }
    result = subprocess.run(
        list(map(str, ["unshare", "-m", "sh", "-c", hide, "sh", *qemu, *guest])),
        cwd="/",  # and not where a part of the package lies
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"INSTRUCTIONS (\d+)", result.stderr)
    if result.returncode or found is None:
        raise SystemExit(result.stderr)
    return int(found[1])


def main() -> None:
    bundle = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "count_instructions.so"
        compiler = ["gcc", "-shared", "-fPIC", "-o", plugin, HERE / "count_instructions.c"]
        subprocess.run(compiler, check=True)
        package = Path(folder) / "package"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
        subprocess.run([*pip, SOURCE], check=True, env={**os.environ, **CROSS})
        (wheel,) = Path(folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(package)
        # The first run writes bytecode, and counts for nothing.
        count(plugin, package, bundle, CPUS[0], "portable()", 1)
        print(INTRODUCTION)
        print(f"| engine | {' | '.join(CPUS)} |\n|---|{'---:|' * len(CPUS)}")
        for name, engine in ENGINES.items():
            cells = []
            for cpu in CPUS:
                fewer, more = (
                    count(plugin, package, bundle, cpu, engine, tokens) for tokens in (FEWER, MORE)
                )
                cells.append(f"{(more - fewer) / (MORE - FEWER) / 1e6:.2f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
