"""The computing part of the demo: from a checkpoint and controls to images, strips, network calls and seconds.

Controls are dataclasses, one per family, whose values are as a form gives them; `draw` checks them before any work.
"""
import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import families
from demo import found
from demo.found import TEXT_TO_IMAGE, Found
from distill.few_steps import student_times
from distill.generate import student_of
from distill.student import few_steps_of
from engine.command_line import real_number, whole_number
from engine.denoiser import Guided, check_guidance
from engine.drawing import strip_points
from engine.errors import InputError
from engine.options import CALLS_PER_STEP
from engine.sampling import check_path, check_solver, sample, to_uint8
from flow.drawing import latents_of
from flow.grids import find_path
from flow.latents import decoder_of
from flow.model import load_checkpoint
from flow.options import interval_in_log_snr
from lift import checkpoints, generation, paths
from lift.options import PATH_TYPES
from lift.options import SOLVERS as LIFT_SOLVERS
from lift.path_summary import path_cost
from lift.sampling import generate, uniform_diagonal
from mnist import models as mnist
from mnist.options import SOLVERS as MNIST_SOLVERS
from mnist.options import classes_asked, sampling_of
from scheduler import LinearFlow

MOST_IMAGES, MOST_STEPS, MOST_SEED = 64, 1000, 2**53 - 1        # a page's numbers are exact up to there
MOST_CORNERS = 200
DRAWN_PATH = "drawn"                    # the path type whose corners are the user's
FLOW_SOLVERS = tuple(solver for solver in CALLS_PER_STEP if solver != "renoise")
ALL_CLASSES = "all in turn"


class Cancelled(Exception):
    """Raised by a `report` to stop the work at the next step."""


# --- what comes out ---------------------------------------------------------------------------------------------------

@dataclass
class Walk:
    """What one way of sampling gave.

    images: uint8 [B, C, S, S] per scale ("64×64"). strip: of the first image, uint8 [F, C, S, S] per scale, noise
    first; captions: [F], the times of each frame. num_model_calls: per image. seconds: of the sampling alone.
    """
    label: str
    images: dict[str, torch.Tensor]
    strip: dict[str, torch.Tensor]
    captions: list[str]
    num_model_calls: int
    seconds: float


@dataclass
class Result:
    """The walks of one request; notes: a line each; path: int64 [N + 1, 2] timesteps of LIFT's two scales."""
    walks: list[Walk]
    notes: list[str] = field(default_factory=list)
    path: np.ndarray | None = None


# --- checkpoints ------------------------------------------------------------------------------------------------------

@dataclass
class Opened:
    """A checkpoint in memory. model: what its family's loader returns. class_names: None for a model without classes.

    heatmap, heatmap_file: LIFT's error map of this checkpoint, if there is one. decode: from what a flow's
    sampler holds to uint8. few_steps: of a student of text to image (`distill.student`).
    """
    found: Found
    model: object
    device: torch.device
    class_names: list[str] | None = None
    heatmap: dict | None = None
    heatmap_file: Path | None = None
    decode: Callable | None = None
    few_steps: dict | None = None


def open_checkpoint(chosen: Found, weights: str, device, heatmap_folders=()) -> Opened:
    """The checkpoint, loaded once as long as its file stays as it is. Raises InputError."""
    try:
        age = chosen.path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"{chosen.path}: no such checkpoint any more ({error.strerror}); choose another") from error
    heatmaps = found.heatmap_files(heatmap_folders) if chosen.family == "lift" else ()
    return _opened(chosen, age, weights, torch.device(device), heatmaps)


@functools.lru_cache(maxsize=2)         # two pages may look at different ones
def _opened(chosen: Found, age: int, weights: str, device, heatmaps) -> Opened:
    path = chosen.path
    if chosen.family == "distilled":
        loaded = families.load(path, weights, device)
        return Opened(chosen, loaded, device, names_of(loaded.denoiser, loaded.content.get("label_names")))
    if chosen.family == "lift":
        model = checkpoints.load_model(path, None, weights, device)
        file, heatmap = found.find_heatmap(model, heatmaps) if model.model_type == "lift" else (None, None)
        return Opened(chosen, model, device, heatmap=heatmap, heatmap_file=file)
    if chosen.family == "flow":
        model = load_checkpoint(path, weights, device)
        return Opened(chosen, model, device, names_of(model.denoiser, model.label_names),
                      decode=decoder_of(latents_of(model, None, device)))
    if chosen.family == TEXT_TO_IMAGE:
        from distill.text_to_image import TextToImage, load_student
        is_folder = path.is_dir()
        model, few_steps = (TextToImage(path, device), None) if is_folder else load_student(path, weights, device)[:2]
        return Opened(chosen, model, device, few_steps=few_steps)
    content = mnist.load_checkpoint(path, "denoiser", "--checkpoint")
    model = mnist.model_of(content, path, device, weights=weights)
    return Opened(chosen, model, device, names_of(model.denoiser, None))


def names_of(denoiser, label_names) -> list[str] | None:
    """The classes' names, their numbers where they have none; None for a denoiser without classes."""
    num_classes = getattr(denoiser, "num_classes", None)
    return num_classes and [str(name) for name in label_names or range(num_classes)]


# --- checks -----------------------------------------------------------------------------------------------------------

def number(name: str, value, parse: Callable):
    """A form's value as `parse` (`whole_number`, `real_number`) reads it. Raises InputError that names the control."""
    text = "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value).strip()
    try:
        return parse(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{name}: {error}") from error


def count_and_seed(controls) -> tuple[int, int]:
    """How many images, and of which seed. Raises InputError."""
    return (number("images", controls.num_images, whole_number(1, MOST_IMAGES)),
            number("seed", controls.seed, whole_number(0, MOST_SEED)))


def one_of(name: str, value, known) -> str:
    """The value. Raises InputError unless it is among the known ones."""
    if value not in known:
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        raise InputError(f"{name}: found {str(value)[:60]!r}, expected one of {', '.join(list(known)[:20])}{more}")
    return value


def labels_of(class_name: str | None, opened: Opened, count: int) -> torch.Tensor | None:
    """Class of each image, int64 [count]: the named one, or all in turn; None for a model without classes."""
    names = opened.class_names
    if names is None:
        if class_name not in (None, ALL_CLASSES):
            raise InputError(f"class: found {class_name!r}, but {opened.found.path.name} is a model without classes; "
                             f"choose {ALL_CLASSES!r}")
        return None
    chosen = one_of("class", class_name or ALL_CLASSES, [ALL_CLASSES, *names])
    labels = torch.arange(count) % len(names) if chosen == ALL_CLASSES else torch.full((count,), names.index(chosen))
    return labels.to(opened.device)


def corners_of(text: str | None) -> list[tuple[int, int]]:
    """Corners of a path from text such as `700,900 200,100`: pairs (t_64, t_32). Raises InputError."""
    pairs = []
    for word in (text or "").replace(";", " ").split():
        parts = word.split(",")
        if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 for part in parts):
            raise InputError(f"corners: found {word[:40]!r}, expected pairs t_64,t_32 of whole timesteps with a space "
                             "between the pairs, such as 700,900 200,100")
        pairs.append(tuple(map(int, parts)))
    if len(pairs) > MOST_CORNERS:
        raise InputError(f"corners: found {len(pairs)}, expected at most {MOST_CORNERS}; draw a simpler path")
    return pairs


# --- the loop of all families -----------------------------------------------------------------------------------------

class Recorder:
    """An `on_step` of the sampler: reports progress and keeps some frames of the first image.

    decode(scale, x [1, ...]) -> uint8 [1, C, S, S]. report(step, num_steps) may raise Cancelled. size_of(scale, step):
    the deviation of the noised image there, which it is divided by to be seen; left out: 1.
    """

    def __init__(self, num_steps: int, decode: Callable, report: Callable, size_of: Callable = lambda s, step: 1):
        self.num_steps, self.decode, self.report, self.size_of = num_steps, decode, report, size_of
        self.shown, self.frames, self.captions = set(strip_points(num_steps)), [], []

    def __call__(self, step: int, times, xs) -> None:
        self.report(step, self.num_steps)
        if step in self.shown:
            self.frames.append([self.decode(s, x[:1] / self.size_of(s, step)).cpu() for s, x in enumerate(xs)])
            self.captions.append("image" if step == self.num_steps else ", ".join(f"{time:.4g}" for time in times))

    def strip(self) -> list[torch.Tensor]:
        """uint8 [F, C, S, S] per scale."""
        return [torch.cat(column) for column in zip(*self.frames)]


def size_name(images: torch.Tensor) -> str:
    """64×64."""
    return f"{images.shape[-1]}×{images.shape[-2]}"


def walk_of(label: str, recorder: Recorder, run: Callable) -> Walk:
    """The walk of run(on_step) -> (xs per scale, calls per image): timed, with its images decoded. Raises InputError
    for images that are not finite."""
    start = time.perf_counter()
    xs, num_model_calls = run(recorder)
    if not all(x.isfinite().all() for x in xs):
        raise InputError(f"{label}: a generated image is not finite; use an earlier checkpoint, or float32 precision")
    images = [recorder.decode(s, x).cpu() for s, x in enumerate(xs)]
    seconds = time.perf_counter() - start
    names = [size_name(x) for x in images]
    return Walk(label, dict(zip(names, images)), dict(zip(names, recorder.strip())), recorder.captions, num_model_calls,
                seconds)


def sampled(label: str, denoiser, path, seed: int, count: int, decode: Callable, report: Callable, device,
            **how) -> Walk:
    """A walk by the engine's sampler. how: options of `engine.sampling.sample`."""
    path = check_path(path, denoiser)

    def size_of(s: int, step: int) -> float:                # 80 at the start of EDM's process, 1 or less of the others
        a, sigma = denoiser.processes[s].levels(path[step, s], torch.float64)
        size = float(torch.hypot(a, sigma))
        return size if size > 1.001 else 1

    def run(on_step):
        samples = sample(denoiser, path, seed, range(count), on_step=on_step, device=device, **how)
        return samples.xs, samples.num_model_calls
    return walk_of(label, Recorder(len(path) - 1, decode, report, size_of), run)


def drawn_by_class(opened: Opened, controls, denoiser, path, decode: Callable, report: Callable, **how) -> Result:
    """The walk of a model with classes, or without, along one path; its label is the checkpoint and the solver.

    controls: with class_name, solver, num_images and seed. The rest as in `sampled`.
    """
    count, seed = count_and_seed(controls)
    labels = labels_of(controls.class_name, opened, count)
    return Result([sampled(f"{opened.found.path.stem}, {controls.solver}", denoiser, path, seed, count, decode, report,
                           opened.device, labels=labels, **how)])


# --- LIFT -------------------------------------------------------------------------------------------------------------

@dataclass
class LiftControls:
    """path_type: of `path_types`; corners: of a drawn path, as text."""
    path_type: str = "diagonal"
    corners: str = ""
    num_steps: object = 18
    solver: str = "ddim"
    num_images: object = 4
    seed: object = 42


def path_types(opened: Opened) -> list[str]:
    """The paths for this checkpoint: a drawn one, and those whose error map or edge costs are there."""
    if opened.model.model_type == "baseline":
        return ["uniform", "lead"]
    heatmap = opened.heatmap

    def is_there(name: str) -> bool:
        if name in paths.EDGE_COST_NAMES:
            return heatmap is not None and any(cost in heatmap["edge_costs"] for cost in paths.EDGE_COST_NAMES[name])
        return heatmap is not None or not generation.reads_step_size(name)
    return [DRAWN_PATH, *(name for name in PATH_TYPES if is_there(name))]


def lift_path(opened: Opened, path_type: str, corners: str, num_steps: int) -> np.ndarray:
    """The path of the controls: timesteps int64 [num_steps + 1, 2]. Raises InputError."""
    one_of("path", path_type, path_types(opened))
    if path_type == DRAWN_PATH:
        return paths.path_through(corners_of(corners), num_steps)
    grid = len(opened.heatmap["timesteps"]) if opened.heatmap is not None else None
    options = argparse.Namespace(num_steps=num_steps, heatmap=opened.heatmap_file, heatmap_dir=Path("results"),
                                 grid=grid, allow_mismatch=False, step_size="index", max_jump=5)
    return generation.find_path(opened.model, path_type, options, say=False)


def lift_path_of(opened: Opened, controls: LiftControls) -> np.ndarray:
    """`lift_path` of a form's values."""
    num_steps = number("steps", controls.num_steps, whole_number(1, 999))
    return lift_path(opened, controls.path_type, controls.corners, num_steps)


def describe_lift_path(opened: Opened, path_type: str, path: np.ndarray) -> list[str]:
    """Lines about a path: what it does, and its cost on the error map beside the diagonal's."""
    lines = []
    if path_type == "lead" and "lead" not in (opened.heatmap or {}):
        lines.append(f"path lead: no winner of a search was found, so {paths.Lead()} is used")
    if opened.model.model_type == "baseline":
        return lines
    facts = paths.describe_path(path)
    lines += [f"path: {facts['kind']}; the 32 scale is ahead at {facts['share_32_leads']:.0%} of its points, by "
             f"{facts['mean_lead']:.2f} in log SNR on average"]
    if opened.heatmap is not None:
        costs = [path_cost(opened.heatmap, each, "dp_total")
                 for each in (path, uniform_diagonal(len(path) - 1))]
        lines.append(f"error along the path, both scales: {costs[0]:.4g}; along the diagonal: {costs[1]:.4g}")
    return lines


def draw_lift(opened: Opened, controls: LiftControls, report: Callable, precision: str) -> Result:
    """Images of a baseline, or of both scales along a path."""
    count, seed = count_and_seed(controls)
    check_solver(one_of("solver", controls.solver, LIFT_SOLVERS), 0)
    path = lift_path_of(opened, controls)

    def run(recorder):
        def on_step(step, t_64, t_32, *xs):
            recorder(step, (t_64, t_32)[:len(xs)], xs)
        samples = generate(opened.model.model, path, seed, range(count), solver=controls.solver, precision=precision,
                           on_step=on_step)
        return [x for x in (samples.x_64, samples.x_32) if x is not None], samples.num_model_calls

    recorder = Recorder(len(path) - 1, lambda _, x: to_uint8(x), report)
    walk = walk_of(f"{opened.found.path.stem}, path {controls.path_type}", recorder, run)
    is_dual = opened.model.model_type == "lift"
    return Result([walk], describe_lift_path(opened, controls.path_type, path), path if is_dual else None)


# --- flow -------------------------------------------------------------------------------------------------------------

@dataclass
class FlowControls:
    """class_name: a name, or ALL_CLASSES. guidance acts between the times interval_low and interval_high (0 noise, 1
    image). num_calls: predictions per image; a guided one takes two network calls."""
    class_name: str = ALL_CLASSES
    guidance_scale: object = 4.0
    interval_low: object = 0.0
    interval_high: object = 1.0
    solver: str = "ddim"
    num_calls: object = 32
    num_images: object = 4
    seed: object = 42


def draw_flow(opened: Opened, controls: FlowControls, report: Callable, precision: str) -> Result:
    """Images of a flow, in pixels or latents."""
    scale = number("guidance", controls.guidance_scale, real_number(0, 1000))
    ends = [number(f"guidance interval, {end}", value, real_number(0, 1))
            for end, value in (("from", controls.interval_low), ("to", controls.interval_high))]
    interval = None if ends == [0, 1] else interval_in_log_snr(ends, LinearFlow())
    per_step = CALLS_PER_STEP[one_of("solver", controls.solver, FLOW_SOLVERS)]
    num_calls = number("calls", controls.num_calls, whole_number(per_step, MOST_STEPS))
    if num_calls % per_step:
        raise InputError(f"calls: found {num_calls} with {controls.solver}, which makes {per_step} a step; expected an "
                         "even number")
    check_guidance(scale, opened.model.is_guidable, opened.found.path.name)
    denoiser = Guided(opened.model.denoiser, scale, interval)
    path = find_path(denoiser, "uniform", num_calls // per_step, controls.solver)
    return drawn_by_class(opened, controls, denoiser, path, lambda s, x: to_uint8(opened.decode(x) if s == 0 else x),
                          report, solver=controls.solver, clip=False, precision=precision)


# --- MNIST ------------------------------------------------------------------------------------------------------------

@dataclass
class MnistControls:
    """guidance_scale: w; 0 no class, 1 the class, above guided."""
    class_name: str = ALL_CLASSES
    guidance_scale: object = 1.0
    solver: str = "euler"
    num_steps: object = 20
    num_images: object = 10
    seed: object = 0


def draw_mnist(opened: Opened, controls: MnistControls, report: Callable, precision: str) -> Result:
    """Digits, in pixels or latents, of a model with classes or without."""
    scale = number("w", controls.guidance_scale, real_number(0, 100))
    num_steps = number("steps", controls.num_steps, whole_number(1, MOST_STEPS))
    options = argparse.Namespace(checkpoint=opened.found.path.name, mode="ddim", eta=0.0, sampling_steps=num_steps,
                                 sampler=one_of("solver", controls.solver, MNIST_SOLVERS))
    model = opened.model
    classes_asked(options, model, scale)                # refuses guidance of a model that knows none
    path, how = sampling_of(options, model)
    draw = model.drawing(path, model.classes, scale, precision=precision, **how)
    return drawn_by_class(opened, controls, draw.denoiser, path,
                          lambda _, x: mnist.images_of(x, model.vae, model.image_size), report, **draw.how)


# --- students beside their teachers -----------------------------------------------------------------------------------

@dataclass
class DistilledControls:
    """teacher: None shows the student alone. teacher_steps: of the solver of first order, a call each. guidance_scale:
    of the teacher."""
    class_name: str = ALL_CLASSES
    teacher: Found | None = None
    teacher_steps: object = 18
    guidance_scale: object = 1.0
    num_images: object = 4
    seed: object = 42


def draw_distilled(opened: Opened, controls: DistilledControls, report: Callable, precision: str) -> Result:
    """A student's images in its few steps, and its teacher's from the same noise."""
    count, seed = count_and_seed(controls)
    loaded = opened.model
    student, path = student_of(loaded)
    how = {"labels": labels_of(controls.class_name, opened, count), "precision": precision}
    teacher, steps, scale = None, 0, 1.0
    if controls.teacher is not None:
        steps = number("teacher's steps", controls.teacher_steps, whole_number(1, MOST_STEPS))
        scale = number("teacher's guidance", controls.guidance_scale, real_number(0, 100))
        teacher = open_teacher(opened, controls.teacher)
        check_guidance(scale, teacher.is_guidable and how["labels"] is not None, controls.teacher.path.name,
                       "teacher's guidance")

    def decode(s, x):
        return loaded.images_of(x) if s == 0 else to_uint8(x)

    total = len(path) - 1 + steps
    walks = [sampled(f"student: {opened.found.path.stem}", student, path, seed, count, decode,
                     lambda step, _: report(step, total), opened.device, solver="renoise", clip=False, **how)]
    if teacher is not None:
        walks.append(sampled(f"teacher: {controls.teacher.path.stem}", Guided(teacher.denoiser, scale),
                             teacher.own_path(steps), seed, count, decode,
                             lambda step, _: report(len(path) - 1 + step, total), opened.device, clip=teacher.clips,
                             **how))
    return Result(walks)


def open_teacher(opened: Opened, chosen: Found) -> families.Loaded:
    """The teacher. Raises InputError if it is a student itself, or if its images have another form than the
    student's."""
    if chosen.family == "distilled":
        raise InputError(f"teacher: {chosen.path.name} is a student itself, expected a model of many steps")
    teacher = _teacher(chosen, chosen.path.stat().st_mtime_ns, opened.model.weights, opened.device)
    if teacher.family != opened.model.family or teacher.denoiser.shapes != opened.model.denoiser.shapes:
        raise InputError(f"teacher: {chosen.path.name} ({teacher.family}) makes other images than the student "
                         f"({opened.model.family}), expected a model of the same family, size and scales")
    return teacher


@functools.lru_cache(maxsize=1)
def _teacher(chosen: Found, age: int, weights: str, device) -> families.Loaded:
    return families.load(chosen.path, weights, device, "teacher")


# --- text to image ----------------------------------------------------------------------------------------------------

@dataclass
class TextControls:
    """num_steps: of a student, or of DDIM. conditioning_timestep: what a student's first step is told. guidance_scale:
    of a model that is no student. tiny_vae: folder or name of the small autoencoder that decodes, "" the usual one;
    None: the model's own."""
    prompt: str = ""
    num_steps: object = 4
    conditioning_timestep: object = None
    guidance_scale: object = 7.5
    tiny_vae: str | None = None
    num_images: object = 1
    seed: object = 42


def draw_text(opened: Opened, controls: TextControls, report: Callable, precision: str) -> Result:
    """Images of a prompt, by a student in few steps or by a model in diffusers' layout."""
    from distill.text_to_image import TINY_VAES, TextSampler
    count, seed = count_and_seed(controls)
    num_steps = number("steps", controls.num_steps, whole_number(1, MOST_STEPS))
    prompt = " ".join(str(controls.prompt or "").split())
    if not prompt:
        raise InputError("prompt: found nothing, expected a text")
    model, first = opened.model, controls.conditioning_timestep
    first = None if first is None else number("conditioning timestep", first, whole_number(0, 999))
    if opened.few_steps is None:
        if first is not None:
            raise InputError(f"conditioning timestep: found {first}, but {opened.found.path.name} is no student of few "
                             "steps; leave it empty")
        scale = number("guidance", controls.guidance_scale, real_number(0, 1000))
        sampler = TextSampler(model, None, num_steps, scale, precision)
    else:
        places, called_at = ([[t] for t in student_times(num_steps, first=told)] for told in (None, first))
        sampler = TextSampler(model, few_steps_of(places, called_at, opened.few_steps["coupling"]), precision=precision)
    tiny = None if controls.tiny_vae is None else _tiny_vae(controls.tiny_vae or TINY_VAES[model.is_sdxl],
                                                            opened.device)
    decoder = tiny.decode if tiny else model.decode

    def decode(_, x):                           # one by one: an image of 1024x1024 takes an autoencoder gigabytes
        return torch.cat([to_uint8(decoder(each)).cpu() for each in x.split(1)])

    def run(on_step):
        samples = sampler.latents([prompt] * count, seed, range(count), on_step)
        return samples.xs, samples.num_model_calls

    recorder = Recorder(len(sampler.path) - 1, decode, report)
    notes = [f"the prompt has more than {model.texts.num_tokens} tokens and is cut off there"] * \
        model.texts.num_cut_off([prompt])
    return Result([walk_of(f"{opened.found.path.stem}: {prompt}", recorder, run)], notes)


@functools.lru_cache(maxsize=1)
def _tiny_vae(name: str, device):
    from distill.text_to_image import TinyDecoder
    return TinyDecoder(name, device)


# --- all families -----------------------------------------------------------------------------------------------------

CONTROLS = {"lift": LiftControls, "flow": FlowControls, "mnist": MnistControls, "distilled": DistilledControls,
            TEXT_TO_IMAGE: TextControls}
DRAW = {"lift": draw_lift, "flow": draw_flow, "mnist": draw_mnist, "distilled": draw_distilled,
        TEXT_TO_IMAGE: draw_text}


def draw(opened: Opened, controls, report: Callable = lambda step, num_steps: None,
         precision: str = "float32") -> Result:
    """The images that the controls ask of a checkpoint.

    controls: of the checkpoint's family (CONTROLS). report(step, num_steps) is called before every step and may raise
    Cancelled. Raises InputError, before any work, for an impossible value.
    """
    return DRAW[opened.found.family](opened, controls, report, precision)
