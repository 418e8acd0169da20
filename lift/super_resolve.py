"""Super-resolution with no retraining: hold x_32 at a given clean image (t_32 = 0) and denoise x_64 from noise."""
from pathlib import Path

from engine.command_line import (Parser, add_device_options, run_script, seed_number, start_device, whole_number,
                                 write_run_record)
from data import add_data_options, columns_in, load_images
from engine.files import outputs_beside, printable, save_png, write_csv, written_together
from engine.options import WEIGHTS
from lift.options import SOLVERS

MEASURES = ("psnr", "ssim", "consistency")
METHODS = {"joint": "LIFT", "reconciled": "LIFT, reconciled"}


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a LIFT checkpoint")
    parser.add_argument("--weights", choices=WEIGHTS, default="ema", help="averaged or last weights")
    parser.add_argument("--split", default="validation", help="held-out images, such as validation or train[-256:]")
    parser.add_argument("--num_images", type=whole_number(2), default=256, help="the first so many images of the split")
    parser.add_argument("--num_steps", type=whole_number(1), default=18, help="steps of t_64 from 999 to 0")
    parser.add_argument("--solver", choices=SOLVERS, default="ddim", help="first or second order")
    parser.add_argument("--x32", nargs="+", action="each_once", choices=list(METHODS), default=None,
                        help="each scale by its own prediction, or the 64 prediction made to agree with the image; "
                             "left out: both, of two bands joint alone")
    parser.add_argument("--batch_size", type=whole_number(1), default=64, help="images generated at once")
    parser.add_argument("--seed", type=seed_number, default=42, help="decides the start noise of every image")
    parser.add_argument("--num_shown", type=whole_number(1), default=8, help="images in the comparison grid")
    parser.add_argument("--output", type=Path, default=Path("results/super_resolution"), metavar="PREFIX",
                        help="writes PREFIX.csv, .json and .png")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier output")
    add_data_options(parser, columns=True)
    add_device_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    import numpy as np
    from tqdm import tqdm
    from evaluation import figures
    from lift import checkpoints, coupling, measurements
    outputs = outputs_beside(args.output, args.overwrite)
    device = start_device(args)
    lift = checkpoints.load_model(args.checkpoint, "lift", args.weights, device)
    args.x32 = args.x32 or list(METHODS)[:1 if coupling.has_bands(lift.model) else None]
    if "reconciled" in args.x32:
        coupling.check_can_disagree(lift.model, "--x32: found reconciled")
    image_set = load_images(args.dataset, args.split, args.cache_dir, **columns_in(vars(args)))
    measurements.check_enough(len(image_set), args.num_images, args.dataset, args.split)
    truth = np.array(image_set.images[:args.num_images])                    # uint8 [N, 3, 64, 64]
    if note := measurements.note_on_training_images(lift.options, truth, args.cache_dir):
        print(note, flush=True)

    from lift import super_resolution           # scikit-image takes its time
    given = super_resolution.half_size(truth)                                   # uint8 [N, 3, 32, 32]
    methods = {"bicubic": super_resolution.bicubic_double_size(given)}
    for mode in args.x32:
        parts = []
        with tqdm(total=len(truth), desc=METHODS[mode], unit="image") as bar:
            for start in range(0, len(truth), args.batch_size):
                part = given[start:start + args.batch_size]
                parts.append(super_resolution.super_resolve(
                    lift.model, part, args.num_steps, args.seed, range(start, start + len(part)), solver=args.solver,
                    precision=args.precision, x32_mode=mode))
                bar.update(len(part))
        methods[METHODS[mode]] = np.concatenate(parts)

    shared = {"checkpoint": printable(lift.path.name), "checkpoint_hash": lift.fingerprint, "weights": args.weights,
              "dataset": image_set.dataset, "split": args.split, "num_images": len(truth), "num_steps": args.num_steps,
              "solver": args.solver, "precision": args.precision, "seed": args.seed}
    rows, per_image = [], {}
    for method, images in methods.items():
        values = {"psnr": super_resolution.psnr(truth, images), "ssim": super_resolution.ssim(truth, images),
                  "consistency": super_resolution.psnr(given, super_resolution.half_size(images))}
        row = {"method": method}
        for name in MEASURES:
            row[name], row[f"{name}_standard_error"] = measurements.mean_and_standard_error(values[name])
        rows.append(shared | row)
        per_image[method] = {name: values[name].tolist() for name in MEASURES}
        print(f"{method:16} PSNR {row['psnr']:.2f} ± {row['psnr_standard_error']:.2f} dB, "
              f"SSIM {row['ssim']:.4f} ± {row['ssim_standard_error']:.4f}, "
              f"consistency {row['consistency']:.2f} ± {row['consistency_standard_error']:.2f} dB")

    shown = {"32×32": given, **methods, "truth": truth}
    with written_together(args.overwrite):
        write_csv(outputs["csv"], rows, list(rows[0]))
        save_png(outputs["png"],
                 figures.image_rows({label: images[:args.num_shown] for label, images in shown.items()}))
        write_run_record(outputs["json"], args, device, content_hash=image_set.content_hash, per_image=per_image)
    print("wrote " + ", ".join(map(str, outputs.values())))


if __name__ == "__main__":
    run_script(main)
