"""Clients that keep a server of OpenAI's interface busy, and what they see of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

WORDS = (
    *("water", "river", "house", "stone", "green", "small", "old", "tree", "light", "hill"),
    *("wind", "bread", "door", "garden", "winter", "summer", "animal", "field", "paper"),
    *("story", "teacher", "island", "metal", "engine", "market", "window", "letter"),
)
TOKENS = 64
# llama.cpp's own defaults, given to every server.
OPTIONS = {
    "max_tokens": TOKENS,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repetition_penalty": 1,
}
# Seconds until a client that was refused asks again.
_PAUSE = 0.2


@dataclass
class Tally:
    """What a number of clients saw.

    Attributes:
        seconds: that it took.
        tokens: that came, by the server's own count where it gives one.
        first: seconds to the first token of each reply.
        ends: how replies ended.
    """

    seconds: float = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def speed(self) -> float:
        """Tokens a second, of all clients together."""
        return self.tokens / self.seconds

    def first_token(self, share: float) -> float:
        """A quantile of the milliseconds to the first token."""
        ordered: Sequence[float] = sorted(self.first) or [float("nan")]
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def load(url: str, clients: int, seconds: float, cancelled: float = 0, seed: int = 1) -> Tally:
    """Keep `clients` busy for so long; a share of the requests is `cancelled` in the middle."""
    return asyncio.run(_load(url, clients, seconds, cancelled, seed))


async def _load(url: str, clients: int, seconds: float, cancelled: float, seed: int) -> Tally:
    tally = Tally()
    started = time.perf_counter()

    async def client(number: int) -> None:
        draw = random.Random(seed * 10_000 + number)
        while time.perf_counter() - started < seconds:
            await _ask(url, draw, tally, draw.random() < cancelled)

    await asyncio.gather(*map(client, range(clients)))
    tally.seconds = time.perf_counter() - started
    return tally


async def _ask(url: str, draw: random.Random, tally: Tally, cancel: bool) -> None:
    """Stream one completion, or go away in the middle of it."""
    place = urlsplit(url)
    body = {
        "prompt": " ".join(draw.choices(WORDS, k=100)),
        "stream": True,
        "stream_options": {"include_usage": True},
        **OPTIONS,
    }
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    started = time.perf_counter()
    writer = None
    try:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(head.encode() + content)
        status = (await reader.readline()).split()[1].decode()
        if status != "200":
            tally.ends[status] += 1
            await asyncio.sleep(_PAUSE)
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
                counted = json.loads(line[6:])["usage"]["completion_tokens"]
            if chunks == leave_after:
                tally.ends["cancelled"] += 1
                tally.tokens += chunks
                return
        tally.tokens += counted or chunks
        tally.ends["done"] += 1
    except (ConnectionError, IndexError):
        tally.ends["connection lost"] += 1
        await asyncio.sleep(_PAUSE)
    finally:
        if writer is not None:
            writer.close()
