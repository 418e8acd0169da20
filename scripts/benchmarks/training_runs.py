"""Training runs as the benchmarks need them: started as a user would, and read back."""
import os
import subprocess
import sys
from pathlib import Path

from engine import run_files
from engine.command_line import ROOT
from engine.errors import InputError
from engine.files import load_torch

SMALL = ["--dataset", "synthetic:48", "--hidden_dims", "8", "16", "--batch_size", "8", "--log_every", "2",
         "--precision", "float32", "--no_tensorboard", "--device", "cpu", "--num_threads", "1"]
SMALL_FLOW = ["--dataset", "digits:48", "--image_size", "16", "--channels", "3", "--hidden_size", "16", "--depth", "1",
              "--num_heads", "2", "--mlp_ratio", "2", "--patch_size", "4", "--batch_size", "8", "--log_every", "2",
              "--sample_every", "0", "--precision", "float32", "--no_tensorboard", "--device", "cpu", "--num_threads",
              "1"]
NAME = "lift_dual_timestep"
PROGRAMS = {"lift": (str(ROOT / "train_lift.py"),), "flow": ("-m", "flow.train")}
NAMES = {"lift": NAME, "flow": "flow"}
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def train_command(folder, *options, base=None, family: str = "lift") -> list[str]:
    """Arguments of Python for a run that keeps everything below `folder`; later options override `base`."""
    folder, base = Path(folder), base or {"lift": SMALL, "flow": SMALL_FLOW}[family]
    return [*PROGRAMS[family], *base, "--checkpoint_dir", str(folder / "checkpoints"), "--output_dir",
            str(folder / "results"), "--cache_dir", str(folder.parent / "cache"), *map(str, options)]


def train(folder, *options, base=None, launcher=(), family: str = "lift") -> None:
    """Train in a process of its own. Raises InputError with the end of what it said if it fails."""
    done = subprocess.run([sys.executable, *launcher, *train_command(folder, *options, base=base, family=family)],
                          capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise InputError(f"{folder}: training failed with status {done.returncode}: {done.stderr.strip()[-500:]}")


def final_weights(folder, family: str = "lift") -> dict:
    """Raw and averaged weights of a run's newest checkpoint, by name."""
    content = load_torch(run_files.list_checkpoints(Path(folder) / "checkpoints", NAMES[family])[-1])
    return {**{f"raw {name}": value for name, value in content["model_state"].items()},
            **{f"ema {name}": value for name, value in content["ema_state"]["shadow"].items()}}


def log_of(folder) -> list[dict]:
    """The log lines of a run, from its newest training state."""
    return load_torch(run_files.list_states(Path(folder) / "checkpoints", NAME)[-1])["log"]
