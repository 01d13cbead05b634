"""Load on servers of OpenAI's interface: tokens a second, time to the first token, and a soak.

    python benchmarks/serving.py --peers                     # beside llama.cpp's servers
    python benchmarks/serving.py NAME=http://127.0.0.1:8080  # any server that runs already
    python benchmarks/serving.py --soak 10                   # ten minutes with cancelled requests

Every client streams completions one after the other, of prompts of which no two are alike. Servers
take turns at each number of clients. The table goes to stdout as Markdown. `--peers` installs and
builds what is not there yet under `--work`, which takes a C++ compiler and CMake.

In a soak a fifth of the requests is cancelled in the middle, and the only errors allowed are 429.
The numbers of clients come twice, and between the rounds the server's memory must not grow; then
no place may be taken, and after a kill -9 it must serve again.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from load import OPTIONS, TOKENS, Tally, load
from servers import Server, ours, theirs

from atom_edge.runtimes.cpu import cpu_name

HERE = Path(__file__).parent
CANCELLED = 0.2
# What the memory of a soak may grow by between its rounds.
GROWTH = 1.05
# The number of clients that the targets are for.
TARGET_CLIENTS = 16


def compare(servers: dict[str, str], clients: Sequence[int], seconds: float) -> None:
    """Print the table of all servers at each number of clients."""
    print("# Serving\n")
    options = ", ".join(f"{name} {value}" for name, value in OPTIONS.items())
    print(
        f"{cpu_name()}, {os.cpu_count()} logical cores, which clients and servers share. Each\n"
        "client streams one completion after the other: prompts of 100 words of which no two are\n"
        f"alike, {TOKENS} tokens at most; {seconds:.0f} s a row, servers in turn, each with its\n"
        f"own number of threads. Options:\n{options}.\n"
    )
    print("| clients | server | tokens/s | first token p50, ms | p99, ms | replies | other ends |")
    print("|---|---|---|---|---|---|---|")
    for url in servers.values():
        load(url, 2, 2)  # warm
    results = {}
    for count in clients:
        for name, url in servers.items():
            tally = results[count, name] = load(url, count, seconds, seed=count)
            other = ", ".join(f"{n} x {end}" for end, n in tally.ends.items() if end != "done")
            print(
                f"| {count} | {name} | {tally.speed:,.0f} | {tally.first_token(0.5):,.0f} | "
                f"{tally.first_token(0.99):,.0f} | {tally.ends['done']} | {other or '-'} |",
                flush=True,
            )
    if TARGET_CLIENTS in clients and len(servers) > 1:
        our, *their = (results[TARGET_CLIENTS, name] for name in servers)
        print(f"\n{verdict(our, max(their, key=lambda tally: tally.speed))}")


def verdict(our: Tally, fastest: Tally) -> str:
    """How the targets are kept."""
    speed = our.speed / fastest.speed
    wait = our.first_token(0.99) / fastest.first_token(0.99)
    return (
        f"At {TARGET_CLIENTS} clients: {speed:.1f} x the tokens/s of the fastest peer "
        f"(target: 3 x),\nand {wait:.2f} x its p99 to the first token (target: 0.5 x)."
    )


def soak(server: Server, clients: Sequence[int], minutes: float) -> Server:
    """Load a server for so long, kill it and start it again; return the one that runs then."""
    print("\n## A soak\n")
    print(
        f"{minutes:g} minutes on the same machine; {CANCELLED:.0%} of the requests are cancelled "
        "in the middle.\n"
    )
    print("| clients | seconds | done | cancelled | 429 | memory, MB |")
    print("|---|---|---|---|---|---|")
    share = 60 * minutes / len(clients) / 2
    used = []
    for turn in range(2):
        for count in clients:
            ends = load(server.url, count, share, CANCELLED, seed=1000 * turn + count).ends
            figures = " | ".join(str(ends.pop(end, 0)) for end in ("done", "cancelled", "429"))
            print(f"| {count} | {share:.0f} | {figures} | {memory(server.pid):.0f} |", flush=True)
            if ends:
                raise SystemExit(f"error: {dict(ends)}")
        used.append(memory(server.pid))
    if used[1] > GROWTH * used[0]:
        raise SystemExit(f"error: the memory grew from {used[0]:.0f} to {used[1]:.0f} MB")
    time.sleep(0.5)
    left = [metric(server.url, f"atom_edge_{name}") for name in ("running", "waiting")]
    if any(left):
        raise SystemExit(f"error: places are leaked: {left} are running and waiting")
    return killed(server, max(clients))


def killed(server: Server, clients: int) -> Server:
    """Kill a server amid its work, and see that it serves again at once."""
    killing = threading.Timer(0.5, server.kill)
    killing.start()
    lost = load(server.url, clients, 0.6).ends["connection lost"]
    killing.join()
    started = time.perf_counter()
    server = server.again()
    done = load(server.url, 1, 0.1).ends["done"]
    if not done:
        raise SystemExit("error: it does not serve after a kill")
    print(
        f"\nKilled with {lost} requests under way, it served again after "
        f"{time.perf_counter() - started:.1f} s."
    )
    return server


def memory(pid: int) -> float:
    """Resident MB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def metric(url: str, name: str) -> float:
    """The value of a metric of the server."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def main() -> None:
    """Compare, or soak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("servers", nargs="*", metavar="NAME=URL", help="that run already")
    parser.add_argument("--bundle", type=Path, help="of atom-edge; the reference one if omitted")
    parser.add_argument("--peers", action="store_true", help="beside llama.cpp's servers")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build", help="for the peers")
    parser.add_argument("--clients", default="1,4,16,64", help="how many at once, one by one")
    parser.add_argument("--seconds", type=float, default=20, help="of each row")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    given = parser.parse_args()
    clients = [int(count) for count in given.clients.split(",")]
    started = [] if given.servers else [ours(given.bundle)]
    try:
        if given.soak:
            started = [soak(started[0], clients, given.soak)]
            return
        started += theirs(given.work) if given.peers else []
        servers = dict(server.split("=", 1) for server in given.servers)
        servers |= {server.name: server.url for server in started}
        compare(servers, clients, given.seconds)
    finally:
        for server in started:
            server.kill()


if __name__ == "__main__":
    main()
