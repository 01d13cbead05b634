"""The model's threads: tasks wait in a bounded queue, join a batch, and their pieces go out.

    submit -> queue -> join -> run -> pieces -> mailbox of the request
    cancel --------^-------^ between two runs

The server's event loop submits and reads. Each lane is a thread with a batch, which it alone
touches: of a small model two batches side by side make more than one that two threads share. All
pieces that are due after a run cross over to the loop together.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

from atom_edge.errors import AtomEdgeError, RequestError
from atom_edge.runtimes.batch import Batch
from atom_edge.runtimes.server.mailbox import Delivery, Mailbox
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

# Tasks of the queue among which a lane looks for one that it may take.
_LOOK_AHEAD = 16


@dataclass(eq=False)
class _Lane:
    """A thread and its batch.

    Attributes:
        size: tasks at once at most.
        batch: what only the thread changes.
        running: the tasks in it.
        left: those of them that nobody wants any more.
    """

    size: int
    batch: Batch
    running: set[Task] = field(default_factory=set)
    left: list[Task] = field(default_factory=list)


class Scheduler:
    """Runs tasks of many requests.

    Args:
        session: the model.
        size: replies at once at most.
        queue: tasks that may wait at most.
        lanes: threads, each with its share of the replies.
    """

    def __init__(self, session: AtomSession, size: int, queue: int, lanes: int = 1) -> None:
        self.size = size
        self.queue = queue
        self._session = session
        self._waiting: deque[Task] = deque()
        lanes = min(lanes, size)
        sizes = [size // lanes + (number < size % lanes) for number in range(lanes)]
        self._lanes = [_Lane(each, session.new_batch(each)) for each in sizes]
        self._mailboxes: dict[Task, Mailbox] = {}
        self._changed = threading.Condition()
        self._draining = self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._work, args=[lane], name="model", daemon=True)
            for lane in self._lanes
        ]

    def start(self) -> None:
        """Begin to work, for the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Tasks in a batch."""
        return sum(len(lane.running) for lane in self._lanes)

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
            free = self.size - self.running + self.queue
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
            self._changed.notify_all()
        return mailbox

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Give up tasks, waiting or running; those that are done already may be among them."""
        with self._changed:
            for task in tasks:
                if self._mailboxes.pop(task, None) is None:
                    continue
                lane = next((lane for lane in self._lanes if task in lane.running), None)
                if lane is None:
                    self._waiting.remove(task)
                else:
                    lane.left.append(task)
            self._changed.notify_all()

    def drain(self) -> None:
        """Refuse what waits and what comes; what runs goes on."""
        with self._changed:
            self._draining = True
            refused = [(task, self._mailboxes.pop(task)) for task in self._waiting]
            self._waiting.clear()
        for _, mailbox in refused:
            self._call(mailbox.fail, _stopping())

    def close(self) -> None:
        """End each thread after the run that it is in."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # The model's threads

    def _work(self, lane: _Lane) -> None:
        while self._admit(lane):
            try:
                done = lane.batch.run()
            except Exception as error:  # one broken run must not end the server
                self._fail(lane, error)
            else:
                self._deliver(lane, done)

    def _admit(self, lane: _Lane) -> bool:
        """Wait for work, and let tasks leave and join; False at the end of the server."""
        with self._changed:
            while not self._closed:
                for task in lane.left:
                    lane.batch.leave(task)
                    lane.running.discard(task)
                lane.left.clear()
                while (found := self._next(lane)) is not None:
                    self._waiting.remove(found)
                    lane.running.add(found)
                    lane.batch.join(found)
                if lane.running:
                    if self._waiting:  # some of it may be for a lane that sleeps
                        self._changed.notify_all()
                    return True
                self._changed.wait()
            return False

    def _next(self, lane: _Lane) -> Task | None:
        """The first task of the queue that this lane may take.

        It leaves those of which another lane holds more of the prompt and has a place.
        """
        if not self._waiting:
            return None
        share = -(-(self.running + len(self._waiting)) // len(self._lanes))
        free = [each for each in self._lanes if len(each.running) < min(each.size, share)]
        if lane not in free:
            return None
        free.sort(key=lambda each: each is not lane)  # of equals, this one
        for task in islice(self._waiting, _LOOK_AHEAD):
            if lane is max(free, key=lambda each: each.batch.holds(task)):  # at once
                return task
        return None

    def _deliver(self, lane: _Lane, done: Sequence[Delivery]) -> None:
        reached = set()
        with self._changed:
            for task, piece in done:
                mailbox = self._mailboxes.get(task)
                if piece.finish_reason is not None:
                    lane.running.discard(task)
                    self._mailboxes.pop(task, None)
                if mailbox is not None:
                    mailbox.add((task, piece))
                    reached.add(mailbox)
            now = perf_counter()
            post = [(mailbox, pieces) for mailbox in reached if (pieces := mailbox.take_due(now))]
            if post:  # in the order in which the lanes took it
                self._call(_post, post)

    def _fail(self, lane: _Lane, error: Exception) -> None:
        failure = AtomEdgeError(f"The model failed: {error}")
        with self._changed:
            lane.batch = self._session.new_batch(lane.size)
            broken = [self._mailboxes.pop(task, None) for task in lane.running]
            lane.running.clear()
            lane.left.clear()
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
