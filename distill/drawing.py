"""Any checkpoint as a `Drawing`: its own sampler at the steps, guidance and classes asked for, or a student's few steps.

S1's models along paths of their two scales are drawn by `lift.generation`, which knows error maps.
"""
import hashlib

import torch

from distill.generate import student_of
from engine.denoiser import Denoiser, Guided
from engine.drawing import Drawing
from engine.errors import InputError
from engine.sampling import check_solver, denoise_along
from families import Loaded
from flow.grids import GRIDS, check_grid, find_path
from flow.options import interval_in_log_snr
from scheduler import CosineSteps, LinearFlow

FEW_STEPS = "few_steps"                 # the path of a student, whose checkpoint names its steps
FREE_OF_EFFECT = {"num_steps": 18, "solver": "ddim", "eta": 0.0, "guidance_scale": 1.0, "guidance_interval": None,
                  "shift": 1.0, "coarse_shift": 1.0}


def path_names(loaded: Loaded) -> tuple[str, ...]:
    """What `drawing_of` takes as path: grids of a flow, evenly spaced steps of anything else, a student's own."""
    if loaded.few_steps:
        return (FEW_STEPS,)
    return GRIDS if all(isinstance(process, LinearFlow) for process in loaded.denoiser.processes) else ("uniform",)


def check_options(loaded: Loaded, path: str, args) -> None:
    """Raises InputError for what this checkpoint does not have: a path, a class to guide towards, a scale that leads."""
    if path not in path_names(loaded):
        raise InputError(f"--paths: found {path}, but {loaded.path} is a model of family {loaded.family}, expected one of "
                         f"{', '.join(path_names(loaded))}")
    if loaded.few_steps:
        for name, default in FREE_OF_EFFECT.items():
            if getattr(args, name) != default:
                raise InputError(f"--{name}: found {getattr(args, name)}, but {loaded.path} is a student, whose few steps "
                                 "are its own; leave it out")
        return
    check_solver(args.solver, args.eta)
    check_grid(path, args.shift if path == "shift" else 1.0, args.solver)
    process = loaded.denoiser.processes[0]
    interval_in_log_snr(args.guidance_interval, process)
    if args.guidance_scale != 1 and getattr(loaded.denoiser, "num_classes", None) is None:
        raise InputError(f"--guidance_scale: found {args.guidance_scale:g}, but {loaded.path} is a model without classes; "
                         "leave it out")
    if args.guidance_scale != 1 and not loaded.is_guidable:
        raise InputError(f"--guidance_scale: found {args.guidance_scale:g}, but {loaded.path} was trained without dropped "
                         "labels (--label_dropout 0) and knows no null class; use --guidance_scale 1")
    if args.coarse_shift != 1 and len(loaded.denoiser.processes) == 1:
        raise InputError(f"--coarse_shift: found {args.coarse_shift:g}, but {loaded.path} has one scale; leave it out")


def drawing_of(loaded: Loaded, path: str, args, device) -> Drawing:
    """args: num_steps, solver, eta, guidance_scale, guidance_interval, shift, coarse_shift, precision. Classes take turns
    by an image's number. Raises InputError as `check_options` does."""
    check_options(loaded, path, args)
    num_classes = getattr(loaded.denoiser, "num_classes", None)
    classes = None if num_classes is None else range(num_classes)
    shown = {"classes": classes, "device": device, "decode": loaded.decode or torch.nn.Identity(),
             "finish": loaded.cropped or torch.nn.Identity()}
    if loaded.few_steps:
        student, times = student_of(loaded)
        return Drawing(student, times, how={"solver": "renoise", "clip": False, "precision": args.precision}, **shown)
    denoiser, process = loaded.denoiser, loaded.denoiser.processes[0]
    if classes is not None:
        denoiser = Guided(denoiser, args.guidance_scale, interval_in_log_snr(args.guidance_interval, process))
    if isinstance(process, LinearFlow):
        times = find_path(denoiser, path, args.num_steps, args.solver, shift=args.shift, coarse_shift=args.coarse_shift,
                          classes=classes, precision=args.precision, device=device)
    else:
        times = loaded.path_of(args.num_steps) if loaded.path_of else process.uniform_path(args.num_steps)
    clips = loaded.decode is None and isinstance(process, CosineSteps)
    return Drawing(denoiser, times, how={"solver": args.solver, "eta": args.eta, "clip": clips,
                                         "precision": args.precision}, **shown)


class Black(Denoiser):
    """Predicts black images of one pixel, and counts."""

    def __init__(self, denoiser: Denoiser):
        self.processes, self.shapes = denoiser.processes, [(1, 1, 1)] * len(denoiser.processes)
        self.num_classes = 0

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        self.num_evaluations += len(xs[0])
        return [torch.zeros_like(x) for x in xs]


def num_calls(drawing: Drawing) -> int:
    """Network calls per image, counted on one image of a pixel that no network sees."""
    denoiser = Black(drawing.denoiser)
    if isinstance(drawing.denoiser, Guided):
        denoiser = Guided(denoiser, drawing.denoiser.scale, drawing.denoiser.interval)
    start = [torch.zeros(1, *shape) for shape in denoiser.shapes]
    labels = None if drawing.classes is None else torch.zeros(1, dtype=torch.int64)
    return denoise_along(denoiser, drawing.path, start, labels=labels, step_noise=torch.zeros_like,
                         **{**drawing.how, "precision": "float32"}).num_model_calls


def path_hash(path: torch.Tensor) -> str:
    """What identifies a path in the table of results: first 12 hex digits of the SHA-256 of its float64 times."""
    return hashlib.sha256(path.double().contiguous().numpy().astype("<f8").tobytes()).hexdigest()[:12]


def solver_name(args, loaded: Loaded) -> str:
    """The solver as the table of results names it, with all else that decides an image: eta, guidance and its interval."""
    if loaded.few_steps:
        return "renoise"
    parts = [args.solver]
    if args.eta:
        parts.append(f"eta{args.eta:g}")
    if getattr(loaded.denoiser, "num_classes", None) is not None:
        parts.append(f"guidance{args.guidance_scale:g}")
        if args.guidance_interval:
            parts.append("from{:g}to{:g}".format(*args.guidance_interval))
    return "_".join(parts)
