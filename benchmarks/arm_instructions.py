"""Instructions a token on emulated ARM CPUs, for each int8 scheme of a bundle.

usage: arm_instructions.py BUNDLE > benchmarks/results-arm.md
needs: .ci/arm-setup has run; root; the Debian packages qemu-user and gcc

Each scheme is run twice, for fewer and for more tokens, one thread; the difference leaves out
everything but the tokens. Instructions are counted and not timed: compare a column's rows.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent
ROOT = Path(os.environ.get("ATOM_EDGE_ARM", "~/.cache/atom-edge/arm")).expanduser() / "root"
CPUS = ("cortex-a72", "cortex-a76")
FEWER, MORE = 8, 40
SCHEMES = {
    "blocks (MatMulNBits), static cache": "static(True)",
    "columns (MatMulIntegerToFloat), static cache": "static(False)",
    "blocks (MatMulNBits), portable graph": "portable()",
}
GUEST = """
import sys
from pathlib import Path
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.portable import PortableEngine, PortableGraph
from atom_edge.runtimes.engines.static import StaticEngine
from atom_edge.runtimes.providers import open_graph

onnx = Path(sys.argv[1]) / "onnx"

def opener(name):
    return lambda: open_graph(onnx / name, threads=1)

def static(blocks):
    decode = opener("decode.onnx") if blocks else None
    return StaticEngine(opener("prefill.onnx"), decode, 512)

def portable():
    return PortableEngine(PortableGraph(opener("model_quantized.onnx")()), 512)

decoder = Decoder(eval(sys.argv[2]))
decoder.feed([300 + token for token in range(16)])
for step in range(int(sys.argv[3])):
    decoder.feed([400 + step])
"""


def count(plugin: Path, package: Path, bundle: Path, cpu: str, scheme: str, tokens: int) -> int:
    qemu = ["qemu-aarch64", "-L", ROOT, "-cpu", cpu, "-plugin", plugin]
    guest = [ROOT / "usr/bin/python3", "-c", GUEST, bundle, scheme, str(tokens)]
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
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", package]
        subprocess.run([*pip, SOURCE], check=True)
        print("# Instructions a token on ARM, millions\n")
        print(f"| scheme | {' | '.join(CPUS)} |\n|---|{'---:|' * len(CPUS)}")
        for name, scheme in SCHEMES.items():
            cells = []
            for cpu in CPUS:
                fewer, more = (
                    count(plugin, package, bundle, cpu, scheme, tokens) for tokens in (FEWER, MORE)
                )
                cells.append(f"{(more - fewer) / (MORE - FEWER) / 1e6:.2f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
