"""What `eval_fid_batch.py` scores of a baseline or LIFT checkpoint: path by path, a row's columns and its images."""
import copy

from engine.errors import InputError
from engine.files import printable
from engine.flops import gflop_done_by, gflop_of_evaluation
from lift import checkpoints, generation
from lift.coupling import timestep_denoiser
from lift.options import DEFAULT_PATHS, SOLVERS, refuse_unguided

OF_OTHERS = ["guidance_scale", "guidance_interval", "guidance_reuse", "shift", "coarse_shift",
             "vae"]                             # options without effect here


class Candidates:
    """A checkpoint of S1 and the paths that it is sampled along.

    refuse(options, where): `refuse_without_effect` of the command line. Raises InputError for options, paths and error
    maps that do not fit the checkpoint.
    """

    image_shape = (3, 64, 64)
    knows_its_data = False                      # --dataset left out means the default, not what it was trained on

    def __init__(self, args, refuse, file, device, say: bool):
        refuse(OF_OTHERS, f"for {file}, a model of S1")
        if args.solver not in SOLVERS:
            raise InputError(f"--solver: found {args.solver} for {file}, a model of S1; expected "
                             f"{' or '.join(SOLVERS)}")
        self.args, self.say = args, say
        self.loaded = checkpoints.load_model(file, args.model_type, args.weights, device)
        self.options = self.loaded.options
        refuse_unguided(refuse, args)
        generation.check_generation(args, self.loaded)
        self.guide = generation.load_guide(self.loaded, args, device)
        self.paths = {name: generation.find_path(self.loaded, name, args, say=say)
                      for name in args.paths or DEFAULT_PATHS[self.loaded.model_type]}
        self.network = self.weak = None             # made when first used: finished rows compile nothing

    def key(self, name: str) -> dict:
        """The identifying columns of a path's rows that tell of the model and of how it is sampled."""
        args, loaded, path = self.args, self.loaded, self.paths[name]
        return {"checkpoint": printable(loaded.path.name), "checkpoint_hash": loaded.fingerprint,
                "model_type": loaded.model_type, "epochs": loaded.epochs, "weights": loaded.weights,
                "path": generation.path_name(loaded, name, args),
                "path_hash": generation.path_hash(path),
                "step_size": args.step_size if generation.reads_step_size(name) else "",
                "solver": generation.solver_name(args, self.guide), "x32_mode": args.x32, "precision": args.precision,
                "num_steps": args.num_steps, "num_model_calls": generation.num_calls(path, args)}

    def gflop(self, name: str, device) -> float:
        """10^9 multiplications and additions of an image along a path: alike in every call, unless the model skips a
        level in some; then an image is generated, not compiled, and counted."""
        model, args = self.loaded.model, copy.copy(self.args)
        if not getattr(model, "skip_64_at_noise", False):
            denoiser = timestep_denoiser(model, 1 + (self.loaded.model_type == "lift"))
            return generation.num_calls(self.paths[name], args) * gflop_of_evaluation(denoiser, device)
        args.batch_size, args.compile = 1, False
        images = generation.generate_uint8(model, self.paths[name], 0, 1, args, guide=self.guide and self.guide.model)
        return gflop_done_by(lambda: list(images))

    def batches(self, name: str, seed: int, group, progress: str):
        """Yields (image numbers, uint8 [B, 3, 64, 64], number that are not finite, network calls per image)."""
        if self.network is None:
            self.network = generation.network_of(self.loaded, self.args, say=self.say)
            self.weak = self.guide and generation.network_of(self.guide, self.args, say=self.say)
        return generation.generate_uint8(self.network, self.paths[name], seed, self.args.num_images, self.args, group,
                                         progress, self.weak)
