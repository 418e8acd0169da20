"""The one training loop: any task, one process or several, straight through or resumed.

A run is a function of its options: the batch of every step depends on the seed and the step alone (`Task.batch`), and
losses draw no random numbers. So a run that was killed and resumed ends with the same weights as one that was not, bit
for bit on a CPU. A step draws its batch. Each of its updates then zeroes the gradients of one network, accumulates,
clips, steps and averages.
"""
import contextlib
import gc
import json
import math
import shlex
import signal
import sys
import time
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from engine import devices, distributed, run_files
from engine.command_line import plain_options, start_device, write_run_record
from engine.errors import InputError
from engine.files import (check_can_be_written, expecting, remove_leftovers, save_png, save_torch, sha256_of_file,
                          write_csv, write_json)
from engine.optimization import ExponentialMovingAverage, longest_warmup, on_cpu
from engine.options import check_fills_a_batch, check_options, check_same_run
from engine.run_log import Events, Mean, StopRequest
from engine.sharding import (exchanged, full_average, full_model, full_optimizer, load_average, load_model,
                             load_optimizer, shard)
from engine.task import Task

GRADIENT_NORM_MAX = 1.0
REPORT_SECONDS = 60                     # between two writings of log and loss curve
STATE_SECONDS = 600                     # between two training states, unless --state_every counts steps
STOP_POLL_STEPS = 10                    # on GPUs: steps between two exchanges about a stop, for each waits for the GPU
VALIDATION_REPORTS = ("validation.csv", "validation_bins.json")     # each as {name}_{report} in the output folder
REPORTS = ("training.csv", "loss.png", "run.json", "preview.png", *VALIDATION_REPORTS)


class Loop:
    """A task's networks, their optimizers and averages, and everything that is written about them.

    draws_curves: whether the loss curve is drawn beside the log; tests leave it out for their tiny runs.
    """

    draws_curves = True

    def __init__(self, task: Task, args, group: distributed.Group, device: torch.device):
        self.task, self.args, self.group, self.device = task, args, group, device
        self.steps_per_epoch = task.num_images // args.batch_size
        self.num_steps = self.planned_steps()
        self.fsdp = getattr(args, "fsdp", False) and group.size > 1
        self.plain, self.wrapped, self.optimizers, self.averages = {}, {}, {}, {}
        for name, network in task.networks.items():
            self.plain[name] = network.to(device, memory_format=devices.training_memory_format(device))
            if self.fsdp:
                shard(network, device)
            trained = [p for p in network.parameters() if p.requires_grad]
            if name in task.averaged:
                self.averages[name] = ExponentialMovingAverage(network, args.ema_decay)
            self.optimizers[name] = task.optimizer(name, trained)
            wrapped = task.compiled(network) if args.compile else network
            if group.size > 1 and not self.fsdp:
                wrapped = DistributedDataParallel(wrapped, broadcast_buffers=False)         # all have the same
            self.wrapped[name] = wrapped
        if self.fsdp:
            task.shard_frozen(device)
        self.trained = {name: [p for p in network.parameters() if p.requires_grad]
                        for name, network in self.plain.items()}

        self.step = 0                           # steps done
        self.num_updates = dict.fromkeys(task.networks, 0)
        self.pending = []                       # losses of steps that are still on the device: {name: scalar}
        self.log, self.validations, self.epoch_losses = [], [], []
        self.interval_mean, self.epoch_mean = Mean(), Mean()
        self.seconds_before = 0.0               # spent in earlier parts of a resumed run
        self.checkpoint_hashes = {}             # file name -> first 16 hex digits of its SHA-256
        self.replaced = []                      # files of an earlier run, which stay until there is a state of this one

    def planned_steps(self) -> int:
        """Steps in the whole run; raises InputError if the images do not fill a batch."""
        check_fills_a_batch(self.args, self.task.num_images)
        return self.task.num_steps

    @property
    def epoch(self) -> float:
        """Passes over the images so far."""
        return self.step / self.steps_per_epoch

    # --- one step ---

    def run_step(self) -> None:
        """Batches, then every update of the step. Nothing in here waits for the device."""
        updates = list(self.task.updates(self.step))
        batches = {}
        row = {}
        for update in updates:
            row |= self.run_update(update, batches, keep=update is not updates[-1])
        self.pending.append(row)
        self.step += 1

    def run_update(self, update, batches: dict, keep: bool) -> dict:
        """Zero, accumulate, clip, step and average one network. Returns its losses and gradient norm by their name in
        the log.

        batches: of this step, by part. A missing one is drawn; with `keep` it stays for the next update.
        """
        name, args = update.trains, self.args
        optimizer = self.optimizers[name]
        rate = self.task.learning_rate(name, self.step, self.num_steps, self.num_updates[name])
        for parameter_group in optimizer.param_groups:
            parameter_group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        part_size = args.batch_size // (args.grad_accum * self.group.size)
        total = None
        with self.only_trained(name) as networks:
            for accumulation in range(args.grad_accum):
                start = (accumulation * self.group.size + self.group.rank) * part_size
                if accumulation not in batches:
                    batches[accumulation] = self.task.batch(self.step, slice(start, start + part_size))
                batch = batches[accumulation] if keep else batches.pop(accumulation)
                is_last = accumulation == args.grad_accum - 1
                # The processes' gradients are averaged in the last part only, which the forward pass decides.
                with contextlib.nullcontext() if is_last else self.unsynchronised(name):
                    losses = update.loss(networks, batch)
                    (losses["loss"] / args.grad_accum).backward()
                values = torch.stack(list(losses.values())).detach() / args.grad_accum
                total = values if total is None else total + values
        norm = torch.nn.utils.clip_grad_norm_(self.trained[name], getattr(args, "max_grad_norm", GRADIENT_NORM_MAX),
                                              foreach=True)
        optimizer.step()
        if name in self.averages:
            self.averages[name].update(self.num_updates[name])
        self.num_updates[name] += 1
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        prefix = f"{name}." if len(self.plain) > 1 else ""
        return {f"{prefix}{key}": value for key, value in
                zip([*losses, "gradient_norm"], [*total.unbind(), norm.detach()])}

    @contextlib.contextmanager
    def only_trained(self, name: str):
        """The networks as a loss sees them: the trained one wrapped, the others plain and without gradient."""
        others = [p for other, parameters in self.trained.items() if other != name for p in parameters]
        for p in others:
            p.requires_grad_(False)
        try:
            yield {other: self.wrapped[name] if other == name else network for other, network in self.plain.items()}
        finally:
            for p in others:
                p.requires_grad_(True)

    def unsynchronised(self, name: str):
        """Context in which gradients of several processes are kept apart."""
        wrapped = self.wrapped[name]
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

    # --- what is known about the run ---

    def collect_losses(self) -> None:
        """Fetch the losses of the last steps, over all processes. Raises InputError if one is not finite.

        The gradient's norm must be finite too: a broken gradient breaks the weights, and no loss has seen these yet.
        """
        if not self.pending:
            return
        first_step, rows = self.step - len(self.pending), self.pending
        self.pending = []
        flat = self.group.mean(torch.stack([value for row in rows for value in row.values()]).float()).double().tolist()
        values = iter(flat)
        for offset, names in enumerate(rows):
            row = {name: next(values) for name in names}
            self.check_finite(first_step + offset, row)
            losses = {name: value for name, value in row.items() if not name.endswith("gradient_norm")}
            self.interval_mean.add(losses)
            self.epoch_mean.add(losses)
            done = first_step + offset + 1
            if done % self.steps_per_epoch == 0:
                means = self.epoch_mean.take()
                self.epoch_losses.append(next((value for name, value in means.items()
                                               if name.rpartition(".")[2] == "loss"), math.nan))
            if done % self.args.log_every == 0 or done == self.num_steps:
                self.add_log_row(done)

    def check_finite(self, step: int, row: dict) -> None:
        """Raises InputError if a loss or a gradient's norm of a step is not finite."""
        broken = next((name for name, value in row.items() if not math.isfinite(value)), None)
        if broken is None:
            return
        what = "the gradient's norm" if broken.endswith("gradient_norm") else "the loss"
        of_network = f" of {broken.partition('.')[0]}" if "." in broken else ""
        advice = f"start again with a lower {self.task.rate_options} and --overwrite, or another --name"
        if self.args.precision != "float32":            # in float32 the same steps would lead to the same end
            advice = f"continue from the last saved state with --resume and --precision float32, or {advice}"
        times = self.task.describe_batch(step)
        raise InputError(f"step {step + 1}: {what}{of_network} is {row[broken]}, expected a finite number; "
                         f"{f'timesteps of the batch: {times}; ' if times else ''}nothing was overwritten; {advice}")

    @property
    def log_columns(self) -> list[str]:
        """Columns of the log: place, all losses, speed."""
        return ["step", "epoch", *self.task.columns, "learning_rate", "images_per_second", "seconds"]

    def add_log_row(self, done: int) -> None:
        """One line of the log: mean losses since the last one."""
        means, args = self.task.logged(self.interval_mean.take()), self.args
        seconds = self.seconds_before + time.perf_counter() - self.started
        previous = self.log[-1] if self.log else {"step": 0, "seconds": 0.0}
        first = next(iter(self.plain))
        num_updates = max(self.num_updates[first] - 1, 0)
        self.log.append({
            "step": done, "epoch": round(done / self.steps_per_epoch, 4),
            **{column: means.get(column, "") for column in self.task.columns},
            "learning_rate": self.task.learning_rate(first, done - 1, self.num_steps, num_updates),
            "images_per_second": round((done - previous["step"]) * args.batch_size
                                       / max(seconds - previous["seconds"], 1e-9), 2),
            "seconds": round(seconds, 2)})

    # --- files ---

    def content(self) -> dict:
        """An epoch checkpoint: raw and averaged weights of the first network, and where they come from."""
        first = next(iter(self.plain))
        average = {"ema_state": full_average(self.averages[first])} if first in self.averages else {}
        return self.task.completed({**self.description(), "model_state": on_cpu(full_model(self.plain[first])),
                                    **average})

    def description(self) -> dict:
        """A checkpoint without its weights."""
        return {"format_version": 2, **self.task.content(), "epochs": math.ceil(self.epoch), "step": self.step,
                "losses": list(self.epoch_losses), "dataset_hash": self.task.content_hash,
                "labels_hash": self.task.labels_hash, "options": plain_options(self.args)}

    def state(self) -> dict:
        """Everything that a resumed run needs. All processes call it; the main one writes the result."""
        first, *others = self.plain
        return {**self.content(), "optimizer_state": full_optimizer(self.plain[first], self.optimizers[first]),
                "others": {name: {"model_state": on_cpu(full_model(self.plain[name])),
                                  "ema_state": full_average(self.averages[name]) if name in self.averages else None,
                                  "optimizer_state": full_optimizer(self.plain[name], self.optimizers[name])}
                           for name in others}, **self.progress()}

    def progress(self) -> dict:
        """How far the run is: what a state holds beside tensors."""
        return {"frozen_hashes": dict(self.task.frozen_hashes), "num_updates": dict(self.num_updates),
                "num_steps": self.num_steps, "device_type": self.device.type,
                "checkpoint_hashes": dict(self.checkpoint_hashes), "log": self.log, "validations": self.validations,
                "random_states": run_files.random_states(),
                "interval_mean": [self.interval_mean.sums, self.interval_mean.counts],
                "epoch_mean": [self.epoch_mean.sums, self.epoch_mean.counts],
                "seconds": self.seconds_before + time.perf_counter() - self.started}

    def save_checkpoint(self) -> None:
        """Write the epoch checkpoint, whole or not at all. Called by all processes."""
        content = self.content()
        if self.group.is_main:
            path = run_files.checkpoint_path(self.args.checkpoint_dir, self.args.name, math.ceil(self.epoch))
            save_torch(path, content)
            self.checkpoint_hashes[path.name] = sha256_of_file(path)[:16]
            self.keep(path)
            tqdm.write(f"saved {path}")

    def keep(self, path: Path) -> None:
        """Note that `path` belongs to this run now, no longer to the one that it replaces."""
        self.replaced = [other for other in self.replaced if other != path]

    def save_state(self) -> None:
        """Write the state and remove what is left of a run that this one replaces. Called by all processes."""
        self.state_saved = time.perf_counter()
        if getattr(self.args, "sharded_state", False):
            from engine import sharded_state    # its imports take a second, and most runs need none of it
            folder = run_files.tensors_folder(run_files.state_path(self.args.checkpoint_dir, self.args.name, self.step))
            sizes = sharded_state.save(folder, self.plain, self.averages, self.optimizers)
            state = {**self.description(), **self.progress(), "tensor_files": sizes}        # written last
        else:
            state = self.state()
        if not self.group.is_main:
            return
        self.keep(run_files.save_state(self.args.checkpoint_dir, self.args.name, state))
        for path in self.replaced:
            run_files.remove(path)
        self.replaced = []

    def load(self, path: Path, state: dict) -> None:
        """Continue from a saved state. Raises InputError if the task or an option that decides the numbers differs."""
        self.task.check_content(path, state)
        check_same_run(path, state, self.args, self.task, self.num_steps)
        if "tensor_files" in state:
            from engine import sharded_state
            sharded_state.load(run_files.tensors_folder(path), self.plain, self.averages, self.optimizers)
        else:
            first, *others = self.plain
            for name, saved in {first: state, **{other: state["others"][other] for other in others}}.items():
                load_model(self.plain[name], saved["model_state"])
                if name in self.averages:
                    load_average(self.averages[name], saved["ema_state"])
                load_optimizer(self.plain[name], self.optimizers[name], saved["optimizer_state"])
        run_files.restore_random_states(state["random_states"])
        self.step = state["step"]
        self.checkpoint_hashes = dict(state.get("checkpoint_hashes") or {})
        self.num_updates = dict(state.get("num_updates") or dict.fromkeys(self.plain, self.step))
        self.log, self.validations, self.epoch_losses = state["log"], state["validations"], state["losses"]
        self.interval_mean, self.epoch_mean = Mean(*state["interval_mean"]), Mean(*state["epoch_mean"])
        self.seconds_before = state["seconds"]

    def write_reports(self) -> None:
        """Log, loss curve and run record in the output folder."""
        args, folder = self.args, self.args.output_dir
        self.reported = time.perf_counter()
        if not self.log:
            return
        write_csv(folder / f"{args.name}_training.csv", self.log, self.log_columns)
        if self.step == self.num_steps or self.drawn_at + REPORT_SECONDS < self.reported:
            figure = self.task.loss_figure({args.name: self.log}) if self.draws_curves else None
            if figure is not None:
                save_png(folder / f"{args.name}_loss.png", figure)
            self.drawn_at = time.perf_counter()
        if self.validations:
            columns = ["step", "epoch", "weights"]
            columns += [c for c in self.task.columns if c != "loss" and any(c in row for row in self.validations)]
            numbers = {key for row in self.validations for key, value in row.items() if isinstance(value, float)}
            columns += sorted(numbers - set(columns))
            rows = [{column: row.get(column, "") for column in columns} for row in self.validations]
            write_csv(folder / f"{args.name}_validation.csv", rows, columns)
            write_json(folder / f"{args.name}_validation_bins.json", self.validations)
        write_run_record(folder / f"{args.name}_run.json", args, self.device, is_finished=self.step == self.num_steps,
                         step=self.step, num_steps=self.num_steps, epochs=self.epoch, num_images=self.task.num_images,
                         dataset_hash=self.task.content_hash, num_processes=self.group.size,
                         checkpoints=self.checkpoint_hashes,
                         seconds=self.log[-1]["seconds"],
                         last_loss=next((self.log[-1][c] for c in self.task.columns if c.endswith("loss")), ""))

    @devices.exact_float32()
    def run_validation(self) -> None:
        """Held-out losses of raw and averaged weights, at times and noise that never change."""
        for weights in ("raw", "ema") if self.averages else ("raw",):
            with self.networks_with(weights) as networks:
                result = self.task.validate(networks)
            self.validations.append({"step": self.step, "epoch": round(self.epoch, 4), "weights": weights, **result})
            if not self.group.is_main:
                continue
            tqdm.write(f"validation at epoch {self.epoch:g}, {weights}: {self.task.validation_text(result)}")
            if detail := self.task.validation_detail(result):
                if weights == "ema":
                    tqdm.write(detail)

    def write_pictures(self) -> None:
        """The task's pictures of the averaged weights."""
        with self.networks_with("ema") as networks:
            pictures = self.task.pictures(networks, self.step, self.epoch)
        if self.group.is_main:
            for path, picture in pictures.items():
                save_png(path, picture)

    @contextlib.contextmanager
    def networks_with(self, weights: str):
        """The networks with their averaged or raw weights: name -> callable.

        With FSDP they stay spread, so all processes call it and use them alike.
        """
        averaged = self.averages if weights == "ema" else {}
        if not self.fsdp:
            yield {name: with_weights(network, averaged[name].shadow) if name in averaged else network
                   for name, network in self.plain.items()}
            return
        with contextlib.ExitStack() as stack:
            for name, average in averaged.items():
                stack.enter_context(exchanged(self.plain[name], average))
            yield dict(self.plain)

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
        validate = self.task.has_validation and self.is_due(self.args.val_every)
        preview = self.is_due(getattr(self.args, "sample_every", 0))
        if log or state or validate:
            num_rows = len(self.log)
            self.collect_losses()               # and so a loss that is not finite stops the run before its checkpoint
            if self.group.is_main and len(self.log) > num_rows:
                row = self.log[-1]
                shown = [f"{column} {row[column]:.4f}" for column in self.task.columns if row[column] != ""][:2]
                shown = shown[:1] if "loss" in self.task.columns else shown
                progress.set_postfix_str(f"{', '.join(shown)}, rate {row['learning_rate']:.1e}, "
                                         f"{row['images_per_second']:.0f} images/s")
                events.add(row)
        if validate and (self.group.is_main or self.fsdp):
            self.run_validation()
        if preview and (self.group.is_main or self.fsdp):
            self.write_pictures()
        if state:
            self.save_state()                   # first: a run killed here resumes, and then writes its checkpoint
        if save:
            self.save_checkpoint()
        if self.group.is_main:
            is_due = validate or state or log and time.perf_counter() - self.reported > REPORT_SECONDS
            if is_due and not self.replaced:    # else the log in its place is that of checkpoints still there
                self.write_reports()

    def stop_wanted(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop. Several processes ask each other; on GPUs they do so every few
        steps."""
        if self.group.size == 1:
            return stop.signal is not None
        if self.device.type == "cuda" and self.step % STOP_POLL_STEPS:
            return False
        wish = torch.tensor([1.0 if stop.signal else 0.0], device=self.device)
        return self.group.sum(wish).item() > 0

    def run(self) -> None:
        """Train to the last step. Ctrl-C, SIGTERM and SIGHUP save the state and exit, saying how to go on."""
        self.started = self.reported = self.state_saved = time.perf_counter()
        self.drawn_at = 0.0
        if self.step:
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

    def leave(self) -> None:
        """Leave the other processes. DDP's reducers go first: one that outlives the group ends it while it holds the
        interpreter's lock, for which a thread of gloo may be waiting, and then both wait for ever."""
        self.wrapped.clear()
        if self.group.size > 1:
            gc.collect()                        # a DDP refers to itself
        distributed.leave()

    def write_what_a_kill_left_out(self) -> None:
        """Of a run that was killed right after a state: the checkpoint due then, and a finished run's reports."""
        path = run_files.checkpoint_path(self.args.checkpoint_dir, self.args.name, math.ceil(self.epoch))
        state = run_files.state_path(self.args.checkpoint_dir, self.args.name, self.step)
        # An older one is that of the run which this one replaces.
        is_there = path.exists() and path.stat().st_mtime_ns >= state.stat().st_mtime_ns
        if self.checkpoint_is_due() and not self.group.main_says(is_there, self.device):
            self.save_checkpoint()
        if self.step == self.num_steps and self.group.is_main:
            self.write_reports()

    def stop_now(self, number: int) -> None:
        """Save the state, say how to go on, and exit with the status of a process that this signal ended."""
        self.collect_losses()
        self.save_state()
        if self.group.is_main:
            self.write_reports()
            launcher = "python" if self.group.size == 1 else f"torchrun (for {self.group.size} processes, as before)"
            with contextlib.suppress(OSError):          # of a terminal that is gone
                print(f"\nstopped by {signal.Signals(number).name} after step {self.step} of {self.num_steps}; the "
                      f"state is saved; go on with: {launcher} {shlex.join(self.task.resume_words())}",
                      file=sys.stderr, flush=True)
        self.group.wait()
        self.leave()
        sys.exit(128 + number)


def with_weights(network: torch.nn.Module, weights: dict):
    """The network with other parameters than its own; it is called alike."""
    return lambda *inputs, **named: torch.func.functional_call(network, weights, inputs, named)


def refuse_another_runs_log(args) -> None:
    """Raises InputError if the log and record of a finished run, or of checkpoints elsewhere, would be overwritten."""
    record = args.output_dir / f"{args.name}_run.json"
    if args.overwrite or not record.is_file():
        return
    anew = "add --overwrite without --resume" if args.resume else "add --overwrite"
    with expecting(record, "record of a training", f"choose another --name or --output_dir, or {anew}"):
        found = json.loads(record.read_text(encoding="utf-8"))
        folder, is_finished = Path(found["options"]["checkpoint_dir"]), found.get("is_finished", True)
    if is_finished or not args.resume and folder.absolute() != args.checkpoint_dir.absolute():
        raise InputError(f"{record}: belongs to {'a finished run' if is_finished else f'a run into {folder}'}, whose "
                         f"log would be lost; choose another --name or --output_dir, or {anew}")


def refuse_what_is_there(args) -> None:
    """Raises InputError for a run that `prepare_start` would refuse, before any data are read."""
    found = run_files.existing_files(args)
    if found and not args.resume and not args.overwrite:
        raise InputError(f"{found[-1]}: exists already; add --resume to continue, --overwrite to train anew, or "
                         "choose another --name")
    if found and args.resume and not run_files.list_states(args.checkpoint_dir, args.name):
        raise InputError(f"{found[-1]}: exists, but no training state that --resume could continue is beside it; "
                         "add --overwrite without --resume to train anew, or choose another --name")
    if not found:
        refuse_another_runs_log(args)


def prepare_start(loop: Loop) -> None:
    """Resume, or make room, or refuse; then say from which step the run goes."""
    args, main = loop.args, loop.group.is_main
    found, logs_before = run_files.existing_files(args), args.output_dir
    if args.resume:
        newest = run_files.newest_good_state(args.checkpoint_dir, args.name)
        if newest:
            with expecting(newest[0], "training state", "delete it to go on from the one before it"):
                loop.load(*newest)
                logs_before = Path(newest[1]["options"].get("output_dir", logs_before))
        if main:
            print(f"resuming {args.name} from {newest[0]} at step {loop.step} of {loop.num_steps}" if newest
                  else f"nothing to resume for {args.name}: starting at step 0", flush=True)
            before = newest[1]["options"].get("precision") if newest else args.precision
            if before != args.precision:
                print(f"--precision: {args.precision} from here on, {before} so far", flush=True)
            if newest and loop.task.labels_hash and "labels_hash" not in newest[1]:
                print(f"{newest[0]}: of an earlier version, which kept no hash of labels: they are taken as given",
                      flush=True)
            before = newest[1].get("device_type", loop.device.type) if newest else loop.device.type
            if before != loop.device.type:
                print(f"--device: {loop.device.type} from here on, {before} so far; it draws other noise for the "
                      "same step, so the end is not that of a run that stayed where it was", flush=True)
    elif found and not args.overwrite:
        refuse_what_is_there(args)
    if not loop.step or logs_before.absolute() != args.output_dir.absolute():
        refuse_another_runs_log(args)
    if not loop.step:                           # a state that is continued has it
        loop.task.begin()
    steps = torch.zeros(loop.group.size, device=loop.device)
    steps[loop.group.rank] = loop.step
    if len(set(loop.group.sum(steps).tolist())) > 1:
        raise InputError(f"--checkpoint_dir: the processes found states of steps {steps.long().tolist()} in "
                         f"{args.checkpoint_dir}, expected the same; give a folder that all machines see")
    if main:
        for pattern in ("[0-9]*ep.pth", "step[0-9]*.state.pth"):     # leaves files of runs whose names begin alike
            remove_leftovers(args.checkpoint_dir, f"{args.name}_{pattern}")
        run_files.remove_orphaned_tensors(args.checkpoint_dir, args.name)
        for kind in REPORTS:
            remove_leftovers(args.output_dir, f"{args.name}_{kind}")
        if args.overwrite:                      # validation reports too: the new run may write none
            reports = [args.output_dir / f"{args.name}_{kind}" for kind in VALIDATION_REPORTS]
            loop.replaced = found + [path for path in reports if path.exists()]


def train(make_task, args, agree=None) -> None:
    """Everything a training script does once its options are known.

    make_task(args, device, group) returns the Task; it reads the data. The main process reads them first, so that the
    others find them in the cache. agree(args, group): called before any file is made, for what all processes must
    choose alike.
    """
    check_options(args)
    check_can_be_written(args.output_dir / f"{args.name}_run.json")
    args.device = distributed.local_gpu(args.device)
    device = start_device(args, tf32=True)
    group = distributed.join(device)
    distributed.check_divisible(args.batch_size, group, args.grad_accum)
    if agree is not None:
        agree(args, group)
    with run_files.name_held(args) if group.is_main else contextlib.nullcontext():
        if group.is_main:
            refuse_what_is_there(args)
        if not group.is_main:
            group.wait()                        # the main process decodes; the others find the cache
        task = make_task(args, device, group)
        if group.is_main:
            group.wait()
        loop = Loop(task, args, group, device)
        prepare_start(loop)
        if group.is_main:
            parameters = sum(p.numel() for network in task.networks.values() for p in network.parameters())
            print(f"{args.name}: {parameters:,} parameters, {task.num_images:,} images, {loop.num_steps:,} "
                  f"steps of {args.batch_size} images ({loop.steps_per_epoch} steps an epoch)", flush=True)
            longest = longest_warmup(loop.num_steps)
            if args.lr_schedule == "cosine" and args.warmup_steps > longest:
                print(f"--warmup_steps: {longest} in place of {args.warmup_steps}, for half of the run is left to the "
                      "cosine", flush=True)
        with devices.naming_compiler_errors():
            loop.run()
        if group.is_main:
            newest = run_files.list_checkpoints(args.checkpoint_dir, args.name)[-1]
            print(f"{args.name}: done after {loop.step} steps; {newest}", flush=True)
    loop.leave()
