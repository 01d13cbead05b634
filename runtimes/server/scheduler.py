"""The model's thread: tasks wait in a bounded queue, join the batch, and their pieces go out.

    submit -> queue -> join -> run -> pieces -> mailbox of the request
    cancel --------^-------^ between two runs

The server's event loop submits and reads; the thread alone touches the batch. All pieces that are
due after a run cross over to the loop together.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

from atom_edge.errors import AtomEdgeError, RequestError
from atom_edge.runtimes.batch import Batch
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

Delivery = tuple[Task, Piece]


# Seconds between parts of a reply: a reader sees it flow, and a part for each token would take as
# long to write as the token to make.
_INTERVAL = 0.02


class Mailbox:
    """What has come of the tasks of one request and was not read yet.

    The model's thread adds and takes; the event loop puts what was taken, and reads.
    """

    def __init__(self) -> None:
        self._added: list[Delivery] = []
        self._due = 0.0
        self._pieces: list[Delivery] = []
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()

    def add(self, delivery: Delivery) -> None:
        """Add a piece; the first and the last of a reply are due at once."""
        self._added.append(delivery)
        piece = delivery[1]
        if piece.generation_tokens <= 1 or piece.finish_reason is not None:
            self._due = 0.0

    def take_due(self, now: float) -> list[Delivery]:
        """All that was added, if it is time to hand it over."""
        if now < self._due:
            return []
        due, self._added = self._added, []
        self._due = now + _INTERVAL
        return due

    async def read(self) -> list[Delivery]:
        """Wait until something is there, and take all of it.

        Raises:
            RequestError: if the server stops before the tasks are done.
            AtomEdgeError: if the model fails.
        """
        await self._arrived.wait()
        self._arrived.clear()
        if self._failure is not None:
            raise self._failure
        pieces, self._pieces = self._pieces, []
        return pieces

    def put(self, pieces: Sequence[Delivery]) -> None:
        """Let them be read."""
        self._pieces += pieces
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Let the reader fail."""
        self._failure = error
        self._arrived.set()


class Scheduler:
    """Runs tasks of many requests on one thread.

    Args:
        session: the model.
        size: replies at once at most.
        queue: tasks that may wait at most.
    """

    def __init__(self, session: AtomSession, size: int, queue: int) -> None:
        self.size = size
        self.queue = queue
        self._session = session
        self._waiting: deque[Task] = deque()
        self._running: set[Task] = set()
        self._left: list[Task] = []
        self._mailboxes: dict[Task, Mailbox] = {}
        self._changed = threading.Condition()
        self._draining = self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begin to work, for the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def running(self) -> int:
        """Tasks in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tasks in the queue."""
        return len(self._waiting)

    @property
    def draining(self) -> bool:
        """Whether new tasks are refused since the server stops."""
        return self._draining

    def check(self, count: int) -> None:
        """Refuse a request for more replies than ever fit.

        Raises:
            RequestError: 400.
        """
        if count > self.size + self.queue:
            raise RequestError(
                f"The request asks for {count} replies; this server takes "
                f"{self.size + self.queue} at a time.",
                code="too_many_replies",
            )

    def submit(self, tasks: Sequence[Task]) -> Mailbox:
        """Queue the tasks of a request: all or none.

        Raises:
            RequestError: 429 if the queue is full, 503 if the server stops; see `check`.
        """
        self.check(len(tasks))
        mailbox = Mailbox()
        with self._changed:
            if self._draining:
                raise _stopping()
            free = self.size - len(self._running) + self.queue
            if len(self._waiting) + len(tasks) > free:
                raise RequestError(
                    "The server is busy: its queue is full. Try again in a moment.",
                    status=429,
                    kind="rate_limit_error",
                    code="queue_full",
                )
            for task in tasks:
                self._mailboxes[task] = mailbox
            self._waiting.extend(tasks)
            self._changed.notify()
        return mailbox

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Give up tasks, waiting or running; those that are done already may be among them."""
        with self._changed:
            for task in tasks:
                if self._mailboxes.pop(task, None) is None:
                    continue
                if task in self._running:
                    self._left.append(task)
                else:
                    self._waiting.remove(task)
            self._changed.notify()

    def drain(self) -> None:
        """Refuse what waits and what comes; what runs goes on."""
        with self._changed:
            self._draining = True
            refused = [(task, self._mailboxes.pop(task)) for task in self._waiting]
            self._waiting.clear()
        for _, mailbox in refused:
            self._call(mailbox.fail, _stopping())

    def close(self) -> None:
        """End the thread after the run that it is in."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify()
        self._thread.join()

    # The model's thread

    def _work(self) -> None:
        batch = self._session.new_batch(self.size)
        while self._admit(batch):
            try:
                done = batch.run()
            except Exception as error:  # one broken run must not end the server
                self._fail(error)
                batch = self._session.new_batch(self.size)
            else:
                self._deliver(done)

    def _admit(self, batch: Batch) -> bool:
        """Wait for work, and let tasks leave and join; False at the end of the server."""
        with self._changed:
            while not (self._closed or self._left or self._waiting or self._running):
                self._changed.wait()
            for task in self._left:
                batch.leave(task)
                self._running.discard(task)
            self._left.clear()
            while self._waiting and len(self._running) < self.size and not self._closed:
                task = self._waiting.popleft()
                self._running.add(task)
                batch.join(task)
            return not self._closed

    def _deliver(self, done: Sequence[Delivery]) -> None:
        reached = set()
        with self._changed:
            for task, piece in done:
                mailbox = self._mailboxes.get(task)
                if piece.finish_reason is not None:
                    self._running.discard(task)
                    self._mailboxes.pop(task, None)
                if mailbox is not None:
                    mailbox.add((task, piece))
                    reached.add(mailbox)
        now = perf_counter()
        post = [(mailbox, pieces) for mailbox in reached if (pieces := mailbox.take_due(now))]
        if post:
            self._call(_post, post)

    def _fail(self, error: Exception) -> None:
        failure = AtomEdgeError(f"The model failed: {error}")
        with self._changed:
            broken = [self._mailboxes.pop(task, None) for task in self._running]
            self._running.clear()
            self._left.clear()
        for mailbox in broken:
            if mailbox is not None:
                self._call(mailbox.fail, failure)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def _post(post: Sequence[tuple[Mailbox, Sequence[Delivery]]]) -> None:
    for mailbox, pieces in post:
        mailbox.put(pieces)


def _stopping() -> RequestError:
    return RequestError(
        "The server is stopping.", status=503, kind="service_unavailable_error", code="stopping"
    )
