"""Several things at once, in threads: the first failure ends all of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

JOIN_SECONDS = 2.0
"""How long an interrupted caller waits for threads, which may hang in a read."""

Job = Callable[[], object]


class Interrupted(Exception):
    """Another thread has failed or was interrupted; this one ends too."""


def run_parallel(jobs: Sequence[Job], *, workers: int, stop: threading.Event) -> None:
    """Run all *jobs*, up to *workers* at a time; each looks at *stop* now and then.

    Raises:
        Whatever the first job that failed raised, when all have ended.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    failures: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    # Daemons: who presses Ctrl-C does not wait for a server that hangs.
    threads = [
        threading.Thread(target=_work, args=(waiting, failures, stop), daemon=True)
        for _ in range(min(workers, len(jobs)))
    ]
    try:
        for thread in threads:
            thread.start()
        found = [failures.get() for _ in threads]
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(JOIN_SECONDS)
        raise
    for failure in found:
        # The one that failed first has a reason; the others were only interrupted.
        if failure is not None and not isinstance(failure, Interrupted):
            raise failure


def _work(
    waiting: queue.SimpleQueue[Job],
    failures: queue.SimpleQueue[BaseException | None],
    stop: threading.Event,
) -> None:
    failure: BaseException | None = None
    try:
        while not stop.is_set():
            waiting.get_nowait()()
    except queue.Empty:
        pass
    except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
        failure = error
        stop.set()
    failures.put(failure)
