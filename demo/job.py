"""Work in a thread of its own. It reports how far it is, and it can be stopped."""
import queue
import threading
import time
from collections.abc import Callable, Iterator

from demo.generation import Cancelled

LEAST_INTERVAL_S = 0.1                  # between two events: a page need not draw a thousand steps one by one
ONE_AT_A_TIME = threading.Lock()        # models count their calls, and a device has one memory


class Job:
    """work(report) -> result, started at once. report(done, total) raises Cancelled in the work after `cancel`."""

    def __init__(self, work: Callable):
        self.events, self.is_cancelled = queue.SimpleQueue(), threading.Event()
        self.result, self.error = None, None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Callable) -> None:
        try:
            while not ONE_AT_A_TIME.acquire(timeout=LEAST_INTERVAL_S):
                self._stop_if_cancelled()
            try:
                self._report(0, 0)
                self.result = work(self._report)
            finally:
                ONE_AT_A_TIME.release()
        except BaseException as error:              # handed to the thread that waits in `progress`
            self.error = error
        self.events.put(None)

    def _stop_if_cancelled(self) -> None:
        if self.is_cancelled.is_set():
            raise Cancelled

    def _report(self, done: int, total: int) -> None:
        self._stop_if_cancelled()
        self.events.put((done, total))

    def cancel(self) -> None:
        """Stop the work before its next step, or while it waits for other work to end."""
        self.is_cancelled.set()

    def progress(self) -> Iterator[tuple[int, int]]:
        """(steps done, steps in all) as they come, until the work ends; then `result` is there. Raises what it
        raised."""
        while (event := self.events.get()) is not None:
            while not self.events.empty():                      # a slow reader sees the newest alone
                newer = self.events.get()
                if newer is None:
                    self.events.put(None)
                    break
                event = newer
            yield event
            time.sleep(LEAST_INTERVAL_S)
        if self.error is not None:
            raise self.error
