"""One side of a comparison in a process of its own, so that its settings (allocator, TF32, layout) are no one else's.

The sides are asked in turn. A side that is not asked waits on a pipe and takes no time.
"""
import contextlib
import multiprocessing
import statistics
import traceback

from tqdm import tqdm


def serve(connection, build, arguments) -> None:
    """What the process runs: builds the side, then answers (method, arguments) with (result, None) or (None, error)."""
    try:
        side = build(*arguments)
        connection.send((None, None))
        while (request := connection.recv()) is not None:
            method, method_arguments = request
            connection.send((getattr(side, method)(*method_arguments), None))
    except EOFError:
        pass                                            # the asking process is gone
    except Exception:
        connection.send((None, traceback.format_exc()))


class OwnProcess:
    """A process in which `build(*arguments)` is made and its methods are called by name. A context manager that ends
    it."""

    def __init__(self, build, *arguments):
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads and settings
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, build, arguments), daemon=True)
        self.process.start()
        other_end.close()
        self.answer()

    def answer(self):
        """What the process says. Raises RuntimeError with its traceback, or if it has ended."""
        try:
            result, error = self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"a benchmark's process ended with status {self.process.exitcode} "
                               "(-9 is what it looks like when memory ran out)") from None
        if error:
            raise RuntimeError(error)
        return result

    def call(self, method: str, *arguments):
        """Result of one method there; arguments and result travel through a pipe."""
        self.connection.send((method, arguments))
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.connection.send(None)
        except OSError:
            pass
        self.process.join(timeout=10)
        self.process.kill()


@contextlib.contextmanager
def opened(builds: dict):
    """The sides of a comparison, name -> OwnProcess of (class, *arguments), which end with the block."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(OwnProcess(*build)) for name, build in builds.items()}


def warmed_up(sides: dict) -> dict:
    """The same sides after their `warm_up`, one after the other."""
    for side in sides.values():
        side.call("warm_up")
    return sides


def seconds_in_turn(sides: dict, rounds: int, what: str, method: str, *arguments) -> dict[str, list[float]]:
    """What `method` of every side gives, name -> [rounds]. The sides take turns, so that a machine that becomes slower
    slows all of them. what: the name of the progress bar."""
    seconds = {name: [] for name in sides}
    for _ in tqdm(range(rounds), unit="round", desc=what):
        for name, side in sides.items():
            seconds[name].append(side.call(method, *arguments))
    return seconds


def median_ratio(slower: list[float], faster: list[float]) -> float:
    """Median over the rounds of one side's time over another's."""
    return statistics.median(s / f for s, f in zip(slower, faster))
