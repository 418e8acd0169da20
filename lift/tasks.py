"""S1's two trainings, baseline and LIFT, as tasks of the engine's loop."""
import numpy as np
import torch

from data import choose_val_split, columns_in, images_on, load_images, num_in_common
from engine.errors import InputError
from engine.options import check_fills_a_batch
from engine.seeds import TRAIN_BATCH, VALIDATION_SEED, seeded_generator
from engine.task import Networks, Task
from evaluation import figures
from lift import checkpoints, objective
from networks.unet import compiled
from scheduler import CosineSteps


class ScaleTask(Task):
    """One UNet that puts out the noise at one scale or two. Its loss is the error of the noise or of v, per scale."""

    averaged = ("model",)
    columns = ("loss", "loss_64", "loss_32")

    def __init__(self, model_type: str, args, images, held_out, device):
        super().__init__(args)
        self.model_type, self.device = model_type, device
        self.num_scales = 2 if model_type == "lift" else 1
        self.command = f"train_{model_type}.py"
        self.schedule = CosineSteps()
        self.content_hash, self.num_images = images.content_hash, len(images.images)
        self.images = images_on(images.images, device)
        self.held_out = torch.from_numpy(np.array(held_out.images[:args.val_images])) if held_out else None
        self.has_validation = held_out is not None
        self.rule, self.has_bands = objective.timestep_rule(args), self.num_scales == 2 and args.bands
        torch.manual_seed(args.seed)
        self.networks = {"model": checkpoints.build_model(model_type, args.hidden_dims, args.parametrization,
                                                          self.num_scales == 2 and args.native_32, self.has_bands,
                                                          self.num_scales == 2 and args.skip_64_at_noise > 0)}

    def compiled(self, network):
        """The network by way of torch.compile."""
        return compiled(network)

    def begin(self) -> None:
        """A residual network's linear denoiser is fitted to the images."""
        if self.args.parametrization == "residual":
            self.networks["model"].linear_denoiser.fit(self.images)

    def batch(self, step: int, part: slice) -> objective.ScaleBatch:
        """Images, noises and timesteps of a part of the step's batch."""
        return objective.training_batch(self.images, self.indices(step), self.rule, self.args.seed, step, part,
                                        self.args.flip, self.schedule, self.device, self.has_bands)

    def losses(self, networks: Networks, batch: objective.ScaleBatch) -> dict[str, torch.Tensor]:
        """The weighted sum and the mean squared error per scale."""
        errors = objective.errors_per_image(networks["model"], self.num_scales, batch, self.schedule,
                                            self.args.precision, self.args.loss_target)
        losses = [error.mean() for error in errors]
        # A quarter of the image's numbers are the coarse band's, so that the sum is the mean over its pixels.
        weight_32 = self.args.loss_weight_32 / 4 if self.has_bands else self.args.loss_weight_32
        total = objective.total_loss(losses, self.args.loss_scales, weight_32)
        return {"loss": total, **dict(zip(("loss_64", "loss_32"), losses))}

    def validate(self, networks: Networks) -> dict:
        """Held-out error per scale, and for LIFT per pair of timestep bins."""
        return objective.validate(networks["model"], self.num_scales, self.held_out, VALIDATION_SEED, self.schedule,
                                  self.args.precision, self.device, loss_target=self.args.loss_target,
                                  has_bands=self.has_bands)

    def validation_detail(self, result: dict) -> str:
        """The 64 error by timestep bins, for LIFT."""
        return objective.bins_text(result["bins_64"]) if self.num_scales == 2 else ""

    def content(self) -> dict:
        """What builds the model."""
        model = self.networks["model"]
        return {"family": "lift", "model_type": self.model_type, "hidden_dims": list(model.hidden_dims),
                "parametrization": model.parametrization,
                **({"skip_64_at_noise": True} if getattr(model, "skip_64_at_noise", False) else {})}

    def check_content(self, path, state: dict) -> None:
        """Raises InputError for a state of the other model."""
        found = state.get("model_type")
        if found != self.model_type:
            raise InputError(f"--name: {self.args.name} in {self.args.checkpoint_dir} is a {found}, expected a "
                             f"{self.model_type}; resume it with train_{found}.py, or choose another --name")
        parametrization = state["options"].get("parametrization", "eps")
        self.older_options = {"parametrization": parametrization, "loss_target": parametrization,
                              **({"native_32": False, "bands": False, "skip_64_at_noise": 0.0}
                                  if self.num_scales == 2 else {})}

    def describe_batch(self, step: int) -> str:
        """The timesteps of a step, drawn again from the seed."""
        generator = seeded_generator(self.args.seed, TRAIN_BATCH, step)
        t_64, t_32 = objective.draw_timesteps(self.rule, self.args.batch_size, generator, self.schedule)
        return f"t_64 {t_64.tolist()}" + (f", t_32 {t_32.tolist()}" if self.num_scales == 2 else "")

    def loss_figure(self, logs: dict):
        """A panel per scale."""
        return figures.loss_curves(logs)


def scale_task(model_type: str):
    """What `engine.loop.train` calls to make the task of a model type."""
    def make(args, device, group) -> ScaleTask:
        columns = columns_in(vars(args))
        choose_val_split(args, "validation", group.is_main)
        images = load_images(args.dataset, args.split, args.cache_dir, beside=[args.val_split] * bool(args.val_every),
                             check=lambda facts: check_fills_a_batch(args, facts.count), **columns)
        held_out = load_images(args.dataset, args.val_split, args.cache_dir, **columns) if args.val_every else None
        if group.is_main and held_out and (seen := num_in_common(images.images, held_out.images[:args.val_images])):
            print(f"WARNING: --val_split: {seen} of the held-out images are among the training images; their loss "
                  "says nothing of unseen ones", flush=True)
        return ScaleTask(model_type, args, images, held_out, device)
    return make
