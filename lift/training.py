"""The one training loop: both models, one process or several, straight through or resumed.

A run is a function of its options: the batch of every step depends on the seed and the step alone (`objective.py`),
so a run that was killed and resumed ends with the same weights, bit for bit on a CPU, as one that was not.
"""
import contextlib
import fcntl
import json
import math
import random
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lift import checkpoints
from engine import devices
from engine import distributed
from lift import objective
from evaluation import figures
from engine.command_line import plain_options, start_device, write_run_record
from data import load_images, num_in_common, to_device
from engine.errors import InputError
from engine.files import (check_can_be_written, expecting, remove_leftovers, save_png, save_torch, write_csv,
                   write_json)
from engine.optimization import ExponentialMovingAverage, learning_rate_at, longest_warmup, on_cpu
from scheduler import CosineSteps
from lift.training_options import check_options, check_same_run, timestep_rule
from networks.unet import compiled

GRADIENT_NORM_MAX = 1.0
REPORT_SECONDS = 60                     # between two writings of log and loss curve
STATE_SECONDS = 600                     # between two training states, unless --state_every counts steps
VALIDATION_SEED = 0                     # not the run's own, so that runs of the same --loss_target can be compared
STOP_POLL_STEPS = 10                    # between two questions to other processes on a GPU, which wait for it
WEIGHT_DECAY = 0.01
LOG_COLUMNS = ["step", "epoch", "loss", "loss_64", "loss_32", "learning_rate", "images_per_second", "seconds"]
VALIDATION_COLUMNS = ["step", "epoch", "weights", "loss_64", "loss_32"]
VALIDATION_REPORTS = ("validation.csv", "validation_bins.json")     # each as {name}_{report} in the output folder
REPORTS = ("training.csv", "loss.png", "run.json", *VALIDATION_REPORTS)


def random_states() -> dict:
    """The states of all global random generators, in plain types."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    return {"torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
            "python": [version, list(words), gauss_next]}


def restore_random_states(states: dict) -> None:
    """Inverse of `random_states`; GPU states only where the number of GPUs is the same."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss_next = states["python"]
    random.setstate((version, tuple(words), gauss_next))


class Mean:
    """Running mean of a row of numbers, added one by one so that saving in between changes nothing."""

    def __init__(self, sums=None, count: int = 0):
        self.sums, self.count = sums, count

    def add(self, values: list[float]) -> None:
        """Add one row."""
        self.sums = [a + b for a, b in zip(self.sums, values)] if self.sums else list(values)
        self.count += 1

    def take(self) -> list[float]:
        """The mean so far; starts again from nothing."""
        mean = [value / self.count for value in self.sums]
        self.sums, self.count = None, 0
        return mean


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a wish that the loop sees between two steps."""

    def __enter__(self):
        self.signal = None
        self.earlier = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number, frame):
        """Remember the signal; a second one ends the process at once."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *exception):
        for number, handler in self.earlier.items():
            signal.signal(number, handler)


class Trainer:
    """A model, its optimizer and average, the images, and everything that is written about them."""

    def __init__(self, model_type: str, args, images, held_out, device, group):
        self.args, self.device, self.group = args, device, group
        self.is_lift = model_type == "lift"
        self.model_type = model_type
        self.schedule = CosineSteps()
        self.content_hash = images.content_hash
        self.num_images = len(images.images)
        self.steps_per_epoch = self.num_images // args.batch_size
        self.num_steps = self.planned_steps()
        self.images = to_device(images.images, device)
        self.held_out = torch.from_numpy(np.array(held_out.images[:args.val_images])) if held_out else None
        self.rule = timestep_rule(args)

        torch.manual_seed(args.seed)
        self.model = checkpoints.build_model(model_type, args.hidden_dims, args.parametrization,
                                            self.is_lift and args.native_32)
        self.model.to(device, memory_format=devices.training_memory_format(device))
        self.average = ExponentialMovingAverage(self.model, args.ema_decay)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.learning_rate, weight_decay=WEIGHT_DECAY,
                                           fused=True)
        self.network = compiled(self.model) if args.compile else self.model
        if group.size > 1:
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)   # all have the same

        self.step = 0                           # optimizer steps done
        self.pending = []                       # of steps that the host has not asked about yet: losses, gradient norm
        self.log, self.validations, self.epoch_losses = [], [], []
        self.interval_mean, self.epoch_mean = Mean(), Mean()
        self.seconds_before = 0.0               # spent in earlier parts of a resumed run
        self.replaced = []                      # files of an earlier run, which stay until there is a state of this one

    def planned_steps(self) -> int:
        """Optimizer steps in the whole run; raises InputError if the images do not fill a batch."""
        if self.steps_per_epoch == 0:
            raise InputError(f"--batch_size: found {self.args.batch_size}, expected at most {self.num_images}, the "
                             f"number of images in {self.args.dataset} ({self.args.split})")
        return min(self.args.epochs * self.steps_per_epoch, self.args.max_steps or math.inf)

    # --- one step ---

    def run_step(self) -> None:
        """Forward, backward, clip, update, average. Nothing in here waits for the device."""
        args = self.args
        rate = learning_rate_at(self.step, self.num_steps, args.learning_rate, args.lr_schedule, args.warmup_steps)
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        indices = self.batch_indices()
        part_size = args.batch_size // (args.grad_accum * self.group.size)
        total = 0
        for accumulation in range(args.grad_accum):
            start = (accumulation * self.group.size + self.group.rank) * part_size
            batch = objective.training_batch(self.images, indices, self.rule, args.seed, self.step,
                                             slice(start, start + part_size), args.flip, self.schedule, self.device)
            is_last = accumulation == args.grad_accum - 1
            # The processes' gradients are averaged in the last part only; the forward pass is what decides that.
            with contextlib.nullcontext() if is_last or self.group.size == 1 else self.network.no_sync():
                errors = objective.errors_per_image(self.network, self.is_lift, batch, self.schedule, args.precision,
                                                    args.loss_target)
                losses = [error.mean() for error in errors]
                loss = objective.total_loss(losses, args.loss_scales, args.loss_weight_32)
                (loss / args.grad_accum).backward()
            total = total + torch.stack([loss, *losses]).detach() / args.grad_accum
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX, foreach=True)
        self.optimizer.step()
        self.average.update(self.step)
        self.pending.append(torch.cat([total, norm.detach()[None]]))
        self.step += 1

    def batch_indices(self) -> torch.Tensor:
        """Which images the coming step sees, over all processes: int64 [batch_size]."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if place == 0 or not hasattr(self, "order"):
            self.order = objective.epoch_order(self.args.seed, epoch, self.num_images)
        return self.order[place * self.args.batch_size:(place + 1) * self.args.batch_size]

    @property
    def epoch(self) -> float:
        """Passes over the images so far."""
        return self.step / self.steps_per_epoch

    # --- what is known about the run ---

    def collect_losses(self) -> None:
        """Fetch the losses of the last steps, over all processes; raises InputError if one is not finite.

        So must be the gradient's norm: a step along a broken gradient breaks the weights, which no loss has seen yet.
        """
        if not self.pending:
            return
        first_step = self.step - len(self.pending)
        rows = self.group.mean(torch.stack(self.pending)).double().cpu()
        self.pending = []
        for offset, row in enumerate(rows):
            if not torch.isfinite(row).all():
                raise InputError(self.describe_divergence(first_step + offset, row[0].item(), row[-1].item()))
            losses = row[:-1].tolist()
            self.interval_mean.add(losses)
            self.epoch_mean.add(losses)
            done = first_step + offset + 1
            if done % self.steps_per_epoch == 0:
                self.epoch_losses.append(self.epoch_mean.take()[0])
            if done % self.args.log_every == 0 or done == self.num_steps:
                self.add_log_row(done)

    def add_log_row(self, done: int) -> None:
        """One line of the log: mean losses since the last one."""
        loss, loss_64, *rest = self.interval_mean.take()
        args = self.args
        seconds = self.seconds_before + time.perf_counter() - self.started
        previous = self.log[-1] if self.log else {"step": 0, "seconds": 0.0}
        self.log.append({
            "step": done, "epoch": round(done / self.steps_per_epoch, 4), "loss": loss, "loss_64": loss_64,
            "loss_32": rest[0] if rest else "",
            "learning_rate": learning_rate_at(done - 1, self.num_steps, args.learning_rate, args.lr_schedule,
                                              args.warmup_steps),
            "images_per_second": round((done - previous["step"]) * args.batch_size
                                       / max(seconds - previous["seconds"], 1e-9), 2),
            "seconds": round(seconds, 2)})

    def describe_divergence(self, step: int, loss: float, gradient_norm: float) -> str:
        """What to say when a step is not finite; its timesteps are drawn again from the seed."""
        generator = objective.seeded_generator(self.args.seed, objective.seeds.TRAIN_BATCH, step)
        t_64, t_32 = objective.draw_timesteps(self.rule, self.args.batch_size, generator, self.schedule)
        times = f"t_64 {t_64.tolist()}" + (f", t_32 {t_32.tolist()}" if self.is_lift else "")
        found = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {gradient_norm}"
        advice = "start again with a lower --learning_rate and --overwrite, or another --name"
        if self.args.precision != "float32":            # in float32 the same steps would lead to the same end
            advice = f"continue from the last saved state with --resume and --precision float32, or {advice}"
        return (f"step {step + 1}: {found}, expected a finite number; timesteps of the batch: {times}; "
                f"nothing was overwritten; {advice}")

    # --- files ---

    def content(self) -> dict:
        """An epoch checkpoint: raw and averaged weights, and where they come from."""
        return {"format_version": 1, "model_type": self.model_type, "hidden_dims": list(self.model.hidden_dims),
                "parametrization": self.model.parametrization,
                "model_state": on_cpu(self.model.state_dict()), "ema_state": self.average.state_dict(),
                "epochs": math.ceil(self.epoch), "step": self.step, "losses": list(self.epoch_losses),
                "dataset_hash": self.content_hash, "options": plain_options(self.args)}

    def save_checkpoint(self) -> None:
        """Write the epoch checkpoint, whole or not at all."""
        path = checkpoints.checkpoint_path(self.args.checkpoint_dir, self.args.name, math.ceil(self.epoch))
        save_torch(path, self.content())
        self.keep(path)
        tqdm.write(f"saved {path}")

    def keep(self, path: Path) -> None:
        """A file of this run is in the place of an earlier run's."""
        self.replaced = [other for other in self.replaced if other != path]

    def save_state(self) -> None:
        """Write everything that a resumed run needs; the rest of a run that this one replaces goes."""
        args = self.args
        self.state_saved = time.perf_counter()
        path = checkpoints.save_state(args.checkpoint_dir, args.name, {
            **self.content(), "optimizer_state": self.optimizer.state_dict(), "num_steps": self.num_steps,
            "device_type": self.device.type,
            "learning_rate_schedule": {"kind": args.lr_schedule, "highest": args.learning_rate,
                                       "warmup_steps": args.warmup_steps, "num_steps": self.num_steps},
            "log": self.log, "validations": self.validations, "random_states": random_states(),
            "interval_mean": [self.interval_mean.sums, self.interval_mean.count],
            "epoch_mean": [self.epoch_mean.sums, self.epoch_mean.count],
            "seconds": self.seconds_before + time.perf_counter() - self.started})
        self.keep(path)
        for path in self.replaced:
            path.unlink(missing_ok=True)
        self.replaced = []

    def load_state(self, path: Path, state: dict) -> None:
        """Continue from a saved state. Raises InputError if the model or an option that decides the numbers differs."""
        if state["model_type"] != self.model_type:
            raise InputError(f"--name: {self.args.name} in {self.args.checkpoint_dir} is a {state['model_type']}, "
                             f"expected a {self.model_type}; resume it with train_{state['model_type']}.py, or choose "
                             "another --name")
        check_same_run(path, state, self.args, self.content_hash, self.num_steps)
        self.model.load_state_dict(state["model_state"])
        self.average.load_state_dict(state["ema_state"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        for parameter, moments in self.optimizer.state.items():     # the fused kernels take them to be laid out alike,
            for key, value in moments.items():                      # which another kind of device need not have done
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        restore_random_states(state["random_states"])
        self.step = state["step"]
        self.log, self.validations, self.epoch_losses = state["log"], state["validations"], state["losses"]
        self.interval_mean, self.epoch_mean = Mean(*state["interval_mean"]), Mean(*state["epoch_mean"])
        self.seconds_before = state["seconds"]

    def write_reports(self) -> None:
        """Log, loss curve and run record in the output folder."""
        args, folder = self.args, self.args.output_dir
        self.reported = time.perf_counter()
        if not self.log:
            return
        write_csv(folder / f"{args.name}_training.csv", self.log, LOG_COLUMNS)
        save_png(folder / f"{args.name}_loss.png", figures.loss_curves({args.name: self.log}))
        if self.validations:
            rows = [{column: row.get(column, "") for column in VALIDATION_COLUMNS} for row in self.validations]
            write_csv(folder / f"{args.name}_validation.csv", rows, VALIDATION_COLUMNS)
            write_json(folder / f"{args.name}_validation_bins.json", self.validations)
        write_run_record(folder / f"{args.name}_run.json", args, self.device, is_finished=self.step == self.num_steps,
                         step=self.step, num_steps=self.num_steps, epochs=self.epoch, num_images=self.num_images,
                         dataset_hash=self.content_hash, num_processes=self.group.size,
                         seconds=self.log[-1]["seconds"], last_loss=self.log[-1]["loss"])

    @devices.exact_float32()
    def run_validation(self) -> None:
        """Held-out loss of raw and averaged weights, at timesteps and noise that never change."""
        for weights in ("raw", "ema"):
            parameters = self.average.shadow if weights == "ema" else dict(self.model.named_parameters())

            def network(*inputs):
                return torch.func.functional_call(self.model, parameters, inputs)

            result = objective.validate(network, self.is_lift, self.held_out, VALIDATION_SEED, self.schedule,
                                        self.args.precision, self.device, loss_target=self.args.loss_target)
            self.validations.append({"step": self.step, "epoch": round(self.epoch, 4), "weights": weights, **result})
            shown = ", ".join(f"{key} {result[key]:.5f}" for key in ("loss_64", "loss_32") if key in result)
            tqdm.write(f"validation at epoch {self.epoch:g}, {weights}: {shown}")
            if self.is_lift and weights == "ema":
                tqdm.write(objective.bins_text(result["bins_64"]))

    # --- the loop ---

    def is_due(self, every: int, final: bool = True) -> bool:
        """Whether an epoch that just ended is a multiple of `every`, or the run's last step was just done."""
        at_end = final and self.step == self.num_steps
        return every > 0 and (at_end or self.step % (every * self.steps_per_epoch) == 0)

    def checkpoint_is_due(self) -> bool:
        """Whether this step ends an epoch that --save_epochs or --save_every names."""
        if self.args.save_epochs is None or self.step == self.num_steps:
            return self.is_due(self.args.save_every)
        return self.step % self.steps_per_epoch == 0 and self.step // self.steps_per_epoch in self.args.save_epochs

    def state_is_due(self, log: bool) -> bool:
        """Whether to save the full state after this step; by the main process's clock, asked with every log line."""
        if self.args.state_every:
            return self.step % self.args.state_every == 0
        if not log:
            return False
        interval = REPORT_SECONDS if self.replaced else STATE_SECONDS
        is_due = self.group.is_main and time.perf_counter() - self.state_saved > interval
        return self.group.sum(torch.tensor(float(is_due), device=self.device)).item() > 0

    def after_step(self, progress, events) -> None:
        """Everything that is not the step itself, each thing when its time has come."""
        save = self.checkpoint_is_due()
        log = self.step % self.args.log_every == 0
        state = save or self.state_is_due(log)
        validate = self.held_out is not None and self.is_due(self.args.val_every)
        if log or state or validate:
            num_rows = len(self.log)
            self.collect_losses()               # also: no checkpoint is written after a loss that is not finite
            if self.group.is_main and len(self.log) > num_rows:
                row = self.log[-1]
                progress.set_postfix_str(f"loss {row['loss']:.4f}, rate {row['learning_rate']:.1e}, "
                                         f"{row['images_per_second']:.0f} images/s")
                events.add(row)
        if self.group.is_main:
            if validate:
                self.run_validation()
            if state:
                self.save_state()               # first: a run killed here resumes, and then writes its checkpoint
            if save:
                self.save_checkpoint()
            is_due = validate or state or log and time.perf_counter() - self.reported > REPORT_SECONDS
            if is_due and not self.replaced:    # else the log in its place is that of checkpoints still there
                self.write_reports()

    def stop_wanted(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; several processes ask each other, on GPUs not after every step."""
        if self.group.size == 1:
            return stop.signal is not None
        if self.device.type == "cuda" and self.step % STOP_POLL_STEPS:
            return False
        wish = torch.tensor([1.0 if stop.signal else 0.0], device=self.device)
        return self.group.sum(wish).item() > 0

    def run(self) -> None:
        """Train to the last step. Ctrl-C and SIGTERM save the state and exit, saying how to go on."""
        self.started = self.reported = self.state_saved = time.perf_counter()
        if self.step and self.group.is_main:
            self.write_what_a_kill_left_out()
        with contextlib.closing(Events(self.args, self.step, self.group.is_main)) as events, StopRequest() as stop, \
                tqdm(total=self.num_steps, initial=self.step, unit="step", desc=self.args.name,
                     disable=not self.group.is_main, dynamic_ncols=True,
                     mininterval=1 if sys.stderr.isatty() else 30) as progress:
            while self.step < self.num_steps:
                self.run_step()
                progress.update()
                self.after_step(progress, events)
                if self.step < self.num_steps and self.stop_wanted(stop):
                    self.stop_now(stop.signal or signal.SIGTERM)

    def write_what_a_kill_left_out(self) -> None:
        """Of a run that was killed right after a state: the checkpoint due then, and a finished run's reports."""
        path = checkpoints.checkpoint_path(self.args.checkpoint_dir, self.args.name, math.ceil(self.epoch))
        state = checkpoints.state_path(self.args.checkpoint_dir, self.args.name, self.step)
        # An older one is that of the run which this one replaces.
        if self.checkpoint_is_due() and not (path.exists() and path.stat().st_mtime_ns >= state.stat().st_mtime_ns):
            self.save_checkpoint()
        if self.step == self.num_steps:
            self.write_reports()

    def stop_now(self, number: int) -> None:
        """Save the state, say how to go on, and exit as a process ended by that signal does."""
        self.collect_losses()
        if self.group.is_main:
            self.save_state()
            self.write_reports()
            words = [word for word in sys.argv if word not in ("--resume", "--overwrite")]
            launcher = "python" if self.group.size == 1 else f"torchrun (for {self.group.size} processes, as before)"
            print(f"\nstopped by {signal.Signals(number).name} after step {self.step} of {self.num_steps}; the state "
                  f"is saved; go on with: {launcher} {shlex.join(words)} --resume", file=sys.stderr, flush=True)
        self.group.wait()
        sys.exit(128 + number)


class Events:
    """TensorBoard events of the main process, where TensorBoard is installed and wanted; any after `step` are void.

    A disk that takes no more of them ends the events, not the training.
    """

    def __init__(self, args, step: int, is_main: bool):
        self.writer, self.folder = None, Path("logs") / args.name
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
        """Gives the events up, and says so, where they cannot be written."""
        try:
            yield
        except OSError as error:
            self.writer = None
            tqdm.write(f"{self.folder}: no TensorBoard events are written from here on ({error.strerror or error})")

    def add(self, row: dict) -> None:
        """One log row."""
        if self.writer:
            with self.or_none():
                for key in ("loss", "loss_64", "loss_32", "learning_rate", "images_per_second"):
                    if row[key] != "":
                        self.writer.add_scalar(key, row[key], row["step"])

    def close(self) -> None:
        """Flush."""
        if self.writer:
            with self.or_none():
                self.writer.close()


def say_all_but_os_errors(hook_args) -> None:
    """For threading.excepthook: a full disk is no reason for a traceback."""
    if not isinstance(hook_args.exc_value, OSError):
        threading.__excepthook__(hook_args)


@contextlib.contextmanager
def name_held(args):
    """Hold the run's name; the lock goes with the process, however it ends. Raises InputError if another has it."""
    if not args.name or "/" in args.name:
        raise InputError(f"--name: found {args.name!r}, expected the beginning of a file name; folders belong into "
                         "--checkpoint_dir")
    with contextlib.ExitStack() as held:
        for option, folder in folders_of(args).items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(folder / f".{args.name}.lock", "w"))
            except OSError as error:
                raise InputError(f"{option}: {folder} cannot be made or written ({error.strerror}); choose another "
                                 "folder") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"--name: {args.name} is being trained into {folder} by another process; wait for it, "
                                 "or choose another --name") from None
        yield


def folders_of(args) -> dict[str, Path]:
    """Where a run writes: option -> folder, each folder once."""
    folders = {"--checkpoint_dir": args.checkpoint_dir, "--output_dir": args.output_dir}
    return folders if args.checkpoint_dir.resolve() != args.output_dir.resolve() else {
        "--checkpoint_dir": args.checkpoint_dir}


def existing_files(args) -> list[Path]:
    """Checkpoints and states of the run's name."""
    return (checkpoints.list_checkpoints(args.checkpoint_dir, args.name)
            + checkpoints.list_states(args.checkpoint_dir, args.name))


def refuse_another_runs_log(args) -> None:
    """Raises InputError if the log and record of a finished run, or of checkpoints elsewhere, would be overwritten."""
    record = args.output_dir / f"{args.name}_run.json"
    if args.overwrite or not record.is_file():
        return
    with expecting(record, "record of a training", "choose another --name or --output_dir, or add --overwrite"):
        found = json.loads(record.read_text())
        folder, is_finished = Path(found["options"]["checkpoint_dir"]), found.get("is_finished", True)
    if is_finished or folder.absolute() != args.checkpoint_dir.absolute():
        raise InputError(f"{record}: belongs to {'a finished run' if is_finished else f'a run into {folder}'}, whose "
                         "log would be lost; choose another --name or --output_dir, or add --overwrite")


def prepare_start(trainer: Trainer) -> None:
    """Resume, or make room, or refuse; then say from which step the run goes."""
    args, main = trainer.args, trainer.group.is_main
    found, logs_before = existing_files(args), args.output_dir
    if args.resume:
        newest = checkpoints.newest_good_state(args.checkpoint_dir, args.name)
        if found and not newest:
            raise InputError(f"{found[-1]}: exists, but no training state that --resume could continue is beside it; "
                             "add --overwrite without --resume to train anew, or choose another --name")
        if newest:
            with expecting(newest[0], "training state", "delete it to go on from the one before it"):
                trainer.load_state(*newest)
                logs_before = Path(newest[1]["options"].get("output_dir", logs_before))
        if main:
            print(f"resuming {args.name} from {newest[0]} at step {trainer.step} of {trainer.num_steps}" if newest
                  else f"nothing to resume for {args.name}: starting at step 0", flush=True)
            before = newest[1]["options"].get("precision") if newest else args.precision
            if before != args.precision:
                print(f"--precision: {args.precision} from here on, {before} so far", flush=True)
            before = newest[1].get("device_type", trainer.device.type) if newest else trainer.device.type
            if before != trainer.device.type:
                print(f"--device: {trainer.device.type} from here on, {before} so far; it draws other noise for the "
                      "same step, so the end is not that of a run that stayed where it was", flush=True)
    elif found and not args.overwrite:
        raise InputError(f"{found[-1]}: exists already; add --resume to continue, --overwrite to train anew, or "
                         "choose another --name")
    if not trainer.step or logs_before.absolute() != args.output_dir.absolute():
        refuse_another_runs_log(args)
    if not trainer.step and args.parametrization == "residual":         # a state that is continued has it
        trainer.model.linear_denoiser.fit(trainer.images)
    steps = torch.zeros(trainer.group.size, device=trainer.device)
    steps[trainer.group.rank] = trainer.step
    if len(set(trainer.group.sum(steps).tolist())) > 1:
        raise InputError(f"--checkpoint_dir: the processes found states of steps {steps.long().tolist()} in "
                         f"{args.checkpoint_dir}, expected the same; give a folder that all machines see")
    if main:
        for pattern in ("[0-9]*ep.pth", "step[0-9]*.state.pth"):     # not those of a run whose name begins alike
            remove_leftovers(args.checkpoint_dir, f"{args.name}_{pattern}")
        for kind in REPORTS:
            remove_leftovers(args.output_dir, f"{args.name}_{kind}")
        if args.overwrite:                      # validation reports too: the new run may write none
            reports = [args.output_dir / f"{args.name}_{kind}" for kind in VALIDATION_REPORTS]
            trainer.replaced = found + [path for path in reports if path.exists()]


def train(model_type: str, args) -> None:
    """Everything a training script does once its options are known."""
    check_options(args)
    check_can_be_written(args.output_dir / f"{args.name}_run.json")
    args.device = distributed.local_gpu(args.device)
    device = start_device(args, tf32=True)
    group = distributed.join(device)
    distributed.check_divisible(args.batch_size, group, args.grad_accum)
    with name_held(args) if group.is_main else contextlib.nullcontext():
        if not group.is_main:
            group.wait()                        # the main process decodes; the others find the cache
        images = load_images(args.dataset, args.split, args.cache_dir)
        held_out = load_images(args.dataset, args.val_split, args.cache_dir) if args.val_every else None
        if group.is_main:
            group.wait()
            if held_out and (seen := num_in_common(images.images, held_out.images[:args.val_images])):
                print(f"WARNING: --val_split: {seen} of the held-out images are among the training images; their loss "
                      "says nothing of unseen ones", flush=True)
        trainer = Trainer(model_type, args, images, held_out, device, group)
        prepare_start(trainer)
        if group.is_main:
            parameters = sum(p.numel() for p in trainer.model.parameters())
            print(f"{args.name}: {parameters:,} parameters, {trainer.num_images:,} images, {trainer.num_steps:,} "
                  f"steps of {args.batch_size} images ({trainer.steps_per_epoch} steps an epoch)", flush=True)
            longest = longest_warmup(trainer.num_steps)
            if args.lr_schedule == "cosine" and args.warmup_steps > longest:
                print(f"--warmup_steps: {longest} in place of {args.warmup_steps}, for half of the run is left to the "
                      "cosine", flush=True)
        with devices.naming_compiler_errors():
            trainer.run()
        if group.is_main:
            newest = checkpoints.list_checkpoints(args.checkpoint_dir, args.name)[-1]
            print(f"{args.name}: done after {trainer.step} steps; {newest}", flush=True)
    distributed.leave()
