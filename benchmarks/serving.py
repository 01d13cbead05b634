"""Load on servers of OpenAI's interface: tokens a second, time to the first token, and a soak.

usage: serving.py NAME=URL ... [--clients 1,4,16,64,256] [--seconds 20] [--soak MINUTES]
needs: nothing but Python; the servers run already. Of one model, for example:

    atom-edge serve BUNDLE --port 8080                     # atom-edge=http://127.0.0.1:8080
    python -m llama_cpp.server --model F.gguf --port 8081  # llama-cpp-python=http://127.0.0.1:8081
    llama-server -m F.gguf --port 8082 -np 16 -c 8192      # llama.cpp=http://127.0.0.1:8082

Every client streams completions one after the other: prompts of about 100 words of which no two
are alike, 64 tokens at temperature 0.8. Servers take turns at each number of clients. The table
goes to stdout as Markdown.

With `--soak` each number of clients has its share of the minutes, a fifth of the requests is
cancelled in the middle, and the only errors allowed are 429; at the end the server's own count of
replies in the making must be 0. `--pid` also watches the memory of that process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

WORDS = (
    *("water", "river", "house", "stone", "green", "small", "old", "tree", "light", "hill"),
    *("wind", "bread", "door", "garden", "winter", "summer", "animal", "field", "paper"),
    *("story", "teacher", "island", "metal", "engine", "market", "window", "letter"),
)
TOKENS = 64
CANCELLED = 0.2


@dataclass
class Tally:
    """What a number of clients saw.

    Attributes:
        tokens: that came, by the server's own count where it gives one.
        first: seconds to the first token of each reply.
        ends: how replies ended.
    """

    tokens: int = 0
    first: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)


async def ask(url: str, draw: random.Random, tally: Tally, cancel: bool) -> None:
    """Stream one completion, or go away in the middle of it."""
    place = urlsplit(url)
    body = {
        "prompt": " ".join(draw.choices(WORDS, k=100)),
        "max_tokens": TOKENS,
        "temperature": 0.8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(head.encode() + content)
        status = (await reader.readline()).split()[1].decode()
        if status != "200":
            tally.ends[status] += 1
            await asyncio.sleep(0.2)
            return
        chunks = counted = 0
        leave_after = draw.randrange(1, 4) if cancel else 0  # an event may have several tokens
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            chunks += 1
            if chunks == 1:
                tally.first.append(time.perf_counter() - started)
            if b'"usage":{' in line or b'"usage": {' in line:
                usage = json.loads(line[6:])["usage"]
                counted = usage["completion_tokens"]
            if chunks == leave_after:
                tally.ends["cancelled"] += 1
                tally.tokens += chunks
                return
        tally.tokens += counted or chunks
        tally.ends["done"] += 1
    except (ConnectionError, IndexError):
        tally.ends["connection lost"] += 1
    finally:
        writer.close()


async def load(url: str, clients: int, seconds: float, cancelled: float, seed: int) -> Tally:
    """Keep `clients` busy for so long."""
    tally = Tally()
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        draw = random.Random(seed * 10_000 + number)
        while time.perf_counter() < end:
            await ask(url, draw, tally, draw.random() < cancelled)

    await asyncio.gather(*map(client, range(clients)))
    return tally


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def compare(servers: dict[str, str], clients: Sequence[int], seconds: float) -> None:
    print("# Serving\n")
    print(
        f"{processor()}, {os.cpu_count()} logical cores, which clients and servers share. Each\n"
        "client streams one completion after the other: prompts of 100 words of which no two are\n"
        f"alike, {TOKENS} tokens at temperature 0.8; {seconds:.0f} s a row, servers in turn.\n"
    )
    print("| clients | server | tokens/s | first token p50, ms | p99, ms | replies | other ends |")
    print("|---|---|---|---|---|---|---|")
    for url in servers.values():
        asyncio.run(load(url, 2, 2, 0, 1))  # warm
    for count in clients:
        for name, url in servers.items():
            started = time.perf_counter()
            tally = asyncio.run(load(url, count, seconds, 0, count))
            speed = tally.tokens / (time.perf_counter() - started)
            first = [1000 * percentile(tally.first, share) for share in (0.5, 0.99)]
            other = ", ".join(f"{n} x {end}" for end, n in tally.ends.items() if end != "done")
            print(
                f"| {count} | {name} | {speed:,.0f} | {first[0]:,.0f} | {first[1]:,.0f} | "
                f"{tally.ends['done']} | {other or '-'} |",
                flush=True,
            )


def processor() -> str:
    """The CPU's own name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def memory(pid: int) -> float:
    """Resident MB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def soak(url: str, clients: Sequence[int], minutes: float, pid: int | None) -> None:
    print("| clients | minutes | done | cancelled | 429 | other ends | memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for count in clients:
        share = 60 * minutes / len(clients)
        ends = asyncio.run(load(url, count, share, CANCELLED, count)).ends
        known = [ends.pop(end, 0) for end in ("done", "cancelled", "429")]
        used = f"{memory(pid):.0f}" if pid else "-"
        figures = " | ".join(map(str, known))
        print(f"| {count} | {share / 60:.1f} | {figures} | {dict(ends) or '-'} | {used} |")
        if ends:
            raise SystemExit(f"error: {dict(ends)}")
    time.sleep(1)
    left = [metric(url, f"atom_edge_{name}") for name in ("running", "waiting")]
    if any(left):
        raise SystemExit(f"error: places are leaked: {left} are running and waiting")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--clients", default="1,4,16,64,256")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--pid", type=int)
    given = parser.parse_args()
    servers = dict(server.split("=", 1) for server in given.servers)
    clients = [int(count) for count in given.clients.split(",")]
    if given.soak:
        for url in servers.values():
            soak(url, clients, given.soak, given.pid)
    else:
        compare(servers, clients, given.seconds)


if __name__ == "__main__":
    main()
