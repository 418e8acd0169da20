#!/usr/bin/env python3
"""Write a page that teaches what the models of this family do, shown with models that you have trained.

Give the checkpoints that you have. A section whose model is missing is left out, with a line.
"""
import tempfile
from pathlib import Path

from engine.command_line import run_script, start_device, whole_number, write_run_record
from engine.errors import InputError
from engine.files import refuse_existing, written_together, written_whole
from mnist.options import looking_parser

MOST_BYTES = 3_000_000
NEEDED = {"learning": "a log beside a checkpoint", "guidance": "a model that was trained with dropped labels"}


def parse_args(argv=None):
    """The command line."""
    parser = looking_parser(__doc__, "results/mnist_tour.html", "FILE", precision=None)
    for name, what in (("flow", "train_rf"), ("ddpm", "train_ddpm"), ("vae", "train_vae"),
                       ("latent", "a latent verb, trained with that VAE")):
        parser.add_argument(f"--{name}", type=Path, default=None, metavar="FILE", help=f"a checkpoint of {what}")
    parser.add_argument("--num_samples", type=whole_number(20), default=500, help="images that scores are of")
    parser.set_defaults(device="cpu")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    refuse_existing(args.output, args.overwrite)
    if not any((args.flow, args.ddpm, args.vae, args.latent)):
        raise InputError("--flow, --ddpm, --vae, --latent: found none of them, expected at least one checkpoint")
    from evaluation.page import page
    from mnist.lessons import Tour
    device = start_device(args)
    with tempfile.TemporaryDirectory() as folder:
        tour = Tour(args, Path(folder), device)
        for make, shown in ((tour.forward, tour.pixels), (tour.learning, tour.logs), (tour.backward, tour.models),
                            (tour.solvers, tour.pixels), (tour.guidance, tour.guidable), (tour.latents, tour.vae),
                            (tour.exact, tour.pixels), (tour.scored, True)):
            if shown:
                make()
            else:
                print(f"left out for want of {NEEDED.get(make.__name__, 'a checkpoint')}: {make.__name__}", flush=True)
        text = page(tour.title, tour.lead, tour.sections, [], None, MOST_BYTES)
    with written_together(args.overwrite):
        with written_whole(args.output, "w") as file:
            file.write(text)
        write_run_record(args.output.with_suffix(".json"), args, device, **tour.measured)
    print(f"{args.output}: {len(tour.sections)} sections, {len(text.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
