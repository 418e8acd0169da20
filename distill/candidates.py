"""What `eval_fid_batch.py` scores of any other checkpoint: a flow, a digit model, a student of few steps of any family.

A model is drawn by its own sampler at the steps, guidance and solver asked for; a student in the steps that its
checkpoint names. Classes take turns by an image's number. A model of two scales can walk S1's paths too, by its own
error map.
"""
import hashlib

import torch

import families
from distill.generate import student_of
from engine.denoiser import Corrected, Denoiser, Guided, check_guidance
from engine.drawing import Drawing, in_batches
from engine.errors import InputError
from engine.files import printable
from engine.flops import gflop_done_by, gflop_of_evaluation
from engine.sampling import check_solver, denoise_along
from flow.drawing import guided_as_asked
from flow.grids import check_grid, find_path
from flow.options import GRIDS, check_guides, interval_in_log_snr
from lift import generation
from lift.coupling import times_of_timesteps
from lift.options import AUTOGUIDANCE, PATH_TYPES
from scheduler import LinearFlow

FEW_STEPS = "few_steps"                 # the path of a student
OF_S1 = ["model_type", "x32", "heatmap", "heatmap_dir", "grid", "allow_mismatch", "step_size", "max_jump", "compile",
         *AUTOGUIDANCE]
OF_PLANES = OF_S1[2:8]                  # of these, what a path through the plane of two times reads
OF_GUIDANCE = ["guidance_scale", "guidance_interval", "guidance_reuse"]
OF_SAMPLERS = ["num_steps", "solver", "eta", *OF_GUIDANCE, "shift", "coarse_shift", "eps_scale", "told_log_snr"]


class Candidates:
    """A checkpoint and the ways that it is sampled.

    refuse(options, where): `refuse_without_effect` of the command line. Raises InputError for options that ask for
    something the checkpoint does not have: a path, a class to guide towards, a scale that leads.
    """

    knows_its_data = True                       # --dataset left out means the images that it was trained on

    def __init__(self, args, refuse, file, device, say: bool):
        self.args, self.device = args, device
        self.loaded = families.load(file, args.weights, device, vae=args.vae)
        self.has_plane = len(self.loaded.denoiser.processes) == 2 and not self.loaded.few_steps
        self.as_lift = families.as_lift(self.loaded) if self.has_plane else None
        refuse([option for option in OF_S1 if not self.has_plane or option not in OF_PLANES],
               f"for {file}, which is no model of S1")
        self.options, self.image_shape = self.loaded.options, self.loaded.image_shape
        self.num_classes = self.loaded.denoiser.num_classes
        self.processes = self.loaded.denoiser.processes
        names = self.path_names()
        self.paths = args.paths or names[:1]
        for name in self.paths:
            if name not in names:
                raise InputError(f"--paths: found {name} for {file} of family {self.loaded.family}, expected one of "
                                 f"{', '.join(names)}")
            self.check(name, refuse)
        self.drawings = {}

    def path_names(self) -> tuple[str, ...]:
        """Grids of a flow, evenly spaced steps of anything else, a student's own."""
        if self.loaded.few_steps:
            return (FEW_STEPS,)
        grids = GRIDS if all(isinstance(process, LinearFlow) for process in self.processes) else ("uniform",)
        return (*grids, *PATH_TYPES) if self.has_plane else grids

    def check(self, name: str, refuse) -> None:
        """Raises InputError for options that this checkpoint does not have."""
        args, file = self.args, self.loaded.path
        if self.loaded.few_steps:
            refuse(OF_SAMPLERS, f"for {file}, a student whose few steps are its own")
            return
        if "shift" not in self.paths:
            refuse(["shift"], "without --paths shift")
        check_solver(args.solver, args.eta)
        if name in PATH_TYPES:
            refuse(["coarse_shift"], f"with --paths {name}")
            generation.find_path(self.as_lift, name, args)
        else:
            check_grid(name, args.shift if name == "shift" else 1.0, args.solver)
        if not isinstance(self.processes[0], LinearFlow):
            refuse(["guidance_interval"], f"for {file}, which has no flow time")
        if self.num_classes is None:
            refuse(OF_GUIDANCE, f"for {file}, a model without classes")
        else:
            check_guidance(args.guidance_scale, self.loaded.is_guidable, file)
            interval_in_log_snr(args.guidance_interval, self.processes[0])
            check_guides(args)
        if len(self.processes) == 1:
            refuse(["coarse_shift"], f"for {file}, a model of one scale")

    def drawing(self, name: str) -> Drawing:
        """How images are drawn along a path. A path that is measured is measured when it is first asked for."""
        if name not in self.drawings:
            self.drawings[name] = self.make_drawing(name)
        return self.drawings[name]

    def make_drawing(self, name: str) -> Drawing:
        """A student's few steps, or the model's own sampler."""
        args, loaded, process = self.args, self.loaded, self.processes[0]
        classes = None if self.num_classes is None else range(self.num_classes)
        if loaded.few_steps:
            return loaded.drawing(*student_of(loaded), self.device, "renoise", precision=args.precision)
        if classes is None:
            measured = denoiser = Corrected.where_asked(loaded.denoiser, args.eps_scale, args.told_log_snr)
        else:
            measured, denoiser = (guided_as_asked(loaded.denoiser, args, process, reuse)
                                  for reuse in (0.0, args.guidance_reuse))
        if name in PATH_TYPES:
            steps = generation.find_path(self.as_lift, name, args, say=False)
            path = times_of_timesteps(steps, self.processes)
        elif isinstance(process, LinearFlow):
            path = find_path(measured, name, args.num_steps, args.solver, shift=args.shift if name == "shift" else 1.0,
                             coarse_shift=args.coarse_shift, classes=classes, precision=args.precision,
                             device=self.device)
        else:
            path = (loaded.path_of or process.uniform_path)(args.num_steps)
        return loaded.drawing(denoiser, path, self.device, args.solver, eta=args.eta, precision=args.precision)

    def key(self, name: str) -> dict:
        """The identifying columns of a path's rows that tell of the model and of how it is sampled."""
        loaded, draw, args = self.loaded, self.drawing(name), self.args
        of_plane = name in PATH_TYPES
        return {"checkpoint": printable(loaded.path.name), "checkpoint_hash": loaded.fingerprint,
                "model_type": f"{loaded.family}_student" if loaded.few_steps else loaded.family,
                "epochs": loaded.epochs, "weights": loaded.weights,
                "path": generation.path_name(self.as_lift, name, args) if of_plane else name,
                "path_hash": path_hash(draw.path),
                "step_size": args.step_size if of_plane and generation.reads_step_size(name) else "",
                "solver": self.solver_name(), "x32_mode": "", "precision": args.precision,
                "num_steps": len(draw.path) - 1, "num_model_calls": num_calls(draw)}

    def solver_name(self) -> str:
        """The solver as the table of results names it, with all else that decides an image: eta, guidance, interval,
        the correction of exposure bias."""
        args = self.args
        if self.loaded.few_steps:
            return "renoise"
        parts = [args.solver] + [f"eta{args.eta:g}"] * bool(args.eta)
        if self.num_classes is not None:
            parts.append(f"guidance{args.guidance_scale:g}")
            if args.guidance_interval:
                parts.append("from{:g}to{:g}".format(*args.guidance_interval))
            parts += [f"reused{args.guidance_reuse:g}"] * bool(args.guidance_reuse)
        parts += [f"eps{args.eps_scale:g}"] * (args.eps_scale != 1) + [f"told{args.told_log_snr:g}"] * bool(
            args.told_log_snr)
        return "_".join(parts)

    def gflop(self, name: str, device) -> float:
        """10^9 multiplications and additions of an image along a path, its decoding from latents among them."""
        denoiser, decode = self.loaded.denoiser, self.loaded.decode
        gflop = num_calls(self.drawing(name)) * gflop_of_evaluation(denoiser, device)
        if decode is None:
            return gflop
        return gflop + gflop_done_by(lambda: decode(torch.zeros(1, *denoiser.shapes[0], device=device)))

    def batches(self, name: str, seed: int, group, progress: str):
        """Yields (image numbers, uint8 [B, 3, S, S], number that are not finite, network calls per image)."""
        draw = self.drawing(name)
        for indices, (images, num_broken, calls) in in_batches(lambda part: draw(seed, part), self.args.num_images,
                                                               self.args.batch_size, group, progress):
            yield indices, images.expand(-1, 3, -1, -1), num_broken, calls


class Black(Denoiser):
    """Predicts black images of one pixel, and counts."""

    num_classes = 0

    def __init__(self, denoiser: Denoiser):
        self.processes, self.shapes = denoiser.processes, [(1, 1, 1)] * len(denoiser.processes)

    def clean(self, xs, ts, labels=None) -> list[torch.Tensor]:
        """As in `Denoiser`."""
        self.num_evaluations += len(xs[0])
        return [torch.zeros_like(x) for x in xs]


def num_calls(draw: Drawing) -> int:
    """Network calls per image, counted on one image of one pixel that no network sees."""
    drawn, denoiser = draw.denoiser, Black(draw.denoiser)
    if isinstance(drawn, Corrected):            # which adds no call
        drawn = drawn.denoiser
    if isinstance(drawn, Guided):
        denoiser = drawn.around(denoiser)
    start = [torch.zeros(1, *shape) for shape in denoiser.shapes]
    labels = None if draw.classes is None else torch.zeros(1, dtype=torch.int64)
    return denoise_along(denoiser, draw.path, start, labels=labels, step_noise=torch.zeros_like,
                         **{**draw.how, "precision": "float32"}).num_model_calls


def path_hash(path: torch.Tensor) -> str:
    """A path's identity in the table of results: the first 12 hex digits of the SHA-256 of its float64 times."""
    return hashlib.sha256(path.double().contiguous().numpy().astype("<f8").tobytes()).hexdigest()[:12]
