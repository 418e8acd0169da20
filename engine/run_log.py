"""What a run says of itself while it goes: running means, TensorBoard events, and the wish to stop."""
import contextlib
import signal
import threading

from tqdm import tqdm


class Mean:
    """Running means by name. Values are added one by one, so that saving in between changes nothing."""

    def __init__(self, sums: dict | None = None, counts: dict | None = None):
        self.sums, self.counts = dict(sums or {}), dict(counts or {})

    def add(self, values: dict[str, float]) -> None:
        """Add one row; a name that is missing in it is not counted."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means so far; starts again from nothing."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGHUP (a closed terminal) into a wish that the loop sees between two steps."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self):
        self.signal = None
        self.earlier = {number: signal.signal(number, self.note) for number in self.SIGNALS}
        return self

    def note(self, number, frame):
        """Remember the signal; a second one ends the process at once."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *exception):
        for number, handler in self.earlier.items():
            signal.signal(number, handler)


class Events:
    """TensorBoard events of the main process, if TensorBoard is installed and wanted. Earlier events after `step` are
    void.

    A full disk ends the events, not the training.
    """

    def __init__(self, args, step: int, is_main: bool):
        self.writer, self.folder = None, args.output_dir / "tensorboard" / args.name
        if is_main and not args.no_tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                print("TensorBoard is not installed: no events are written", flush=True)
                return
            with self.or_none():
                self.writer = SummaryWriter(self.folder, purge_step=step + 1)
                threading.excepthook = say_all_but_os_errors    # the writer has a thread, whose errors come here too

    @contextlib.contextmanager
    def or_none(self):
        """Gives the events up, with a line, if they cannot be written."""
        try:
            yield
        except OSError as error:
            self.writer = None
            tqdm.write(f"{self.folder}: no TensorBoard events are written from here on ({error.strerror or error})")

    def add(self, row: dict) -> None:
        """One log row."""
        if self.writer:
            with self.or_none():
                for key, value in row.items():
                    if key not in ("step", "epoch", "seconds") and value != "":
                        self.writer.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Flush."""
        if self.writer:
            with self.or_none():
                self.writer.close()


def say_all_but_os_errors(hook_args) -> None:
    """For threading.excepthook: prints no traceback for an OSError, such as a full disk."""
    if not isinstance(hook_args.exc_value, OSError):
        threading.__excepthook__(hook_args)
