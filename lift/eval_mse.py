"""How well LIFT predicts noise when both scales are noisy, or only one; and how it compares with a baseline.

Without --compare_baseline: the error at --t for both scales noisy, clean 32 with noisy 64, and clean 64 with noisy 32.
With --compare_baseline: LIFT's 64 error over the baseline's at timesteps from 0 to 999. The 32 scale is pure noise,
which is the baseline's task, or on the diagonal, or ahead by some log SNR. This is the model's own error, whatever the
path. If the baseline puts out the residual of a linear denoiser, the error of that denoiser is measured too.
With --inputs self as well: both models along paths, also on inputs of their own making, which tells exposure bias from
the model's error (`lift.exposure`).
"""
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.command_line import (Parser, add_device_options, real_number, refuse_without_effect, run_script,
                                 seed_number, start_device, whole_number, write_run_record)
from data import add_data_options, columns_in, load_images
from engine.files import outputs_beside, printable, save_png, write_csv, written_together
from engine.options import WEIGHTS
from lift.options import LEAD_NAMES


def parse_args(argv=None):
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="a LIFT checkpoint")
    parser.add_argument("--weights", choices=WEIGHTS, default="ema", help="averaged or last weights")
    parser.add_argument("--t", type=whole_number(0, 999), default=500, metavar="TIMESTEP",
                        help="0...999, of the noisy scales")
    parser.add_argument("--split", default="validation", help="held-out images, such as validation or train[-256:]")
    parser.add_argument("--num_images", type=whole_number(2), default=256, help="the first so many images of the split")
    parser.add_argument("--batch_size", type=whole_number(1), default=64, help="images per network call")
    parser.add_argument("--seed", type=seed_number, default=42, help="decides the noise of every image")
    parser.add_argument("--compare_baseline", type=Path, default=None, metavar="CHECKPOINT",
                        help="measure the 64 error beside this baseline instead")
    parser.add_argument("--reconciled", action="store_true",
                        help="make LIFT's two predictions agree first, as --x32 reconciled does in generation")
    parser.add_argument("--num_timesteps", type=whole_number(2, 1000), default=28, metavar="COUNT",
                        help="with --compare_baseline: timesteps from 0 to 999")
    parser.add_argument("--leads", type=real_number(-20, 20), nargs="*", action="each_once", default=[1.39, 3.0, 5.0],
                        metavar="LOG_SNR", help="with --compare_baseline: how far the 32 scale is ahead")
    parser.add_argument("--inputs", choices=("true", "self"), default="true",
                        help="with --compare_baseline: held-out images, noised; self: the models' own samples, noised, "
                             "and what a sampler met on the way to them, too")
    parser.add_argument("--paths", nargs="+", action="each_once", choices=("diagonal", *LEAD_NAMES),
                        default=["diagonal", "lead_2"], metavar="PATH",
                        help=f"of --inputs self: LIFT's ways to samples, of diagonal, {', '.join(LEAD_NAMES)}; the "
                             "baseline's is uniform")
    parser.add_argument("--num_steps", type=whole_number(1, 999), default=18, metavar="STEPS",
                        help="of --inputs self: network calls of a sample")
    parser.add_argument("--sampling_seed", type=seed_number, default=42, metavar="SEED",
                        help="of --inputs self: decides the samples")
    parser.add_argument("--output", type=Path, default=None, metavar="PREFIX",
                        help="writes PREFIX.csv, .json and .png; left out: results/mse, results/model_error with "
                             "--compare_baseline, results/exposure with --inputs self")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier output")
    add_data_options(parser, columns=True)
    add_device_options(parser, precision="float32")
    args = parser.parse_args(argv)
    if args.compare_baseline:
        refuse_without_effect(parser, args, ["t"], "with --compare_baseline, which takes timesteps from 0 to 999")
    else:
        refuse_without_effect(parser, args, ["num_timesteps", "leads", "inputs"], "without --compare_baseline")
    if args.inputs == "self":
        refuse_without_effect(parser, args, ["num_timesteps", "leads"], "with --inputs self, which takes the timesteps "
                              "of its paths")
    else:
        refuse_without_effect(parser, args, ["paths", "num_steps", "sampling_seed"], "without --inputs self")
    name = "mse" if not args.compare_baseline else "exposure" if args.inputs == "self" else "model_error"
    args.output = args.output or Path("results") / name
    return args


def measure_cases(args, lift, images, device):
    """CSV rows and bar chart of the three cases at --t."""
    from evaluation import figures
    from lift import measurements
    cases = measurements.noise_cases(args.t)
    with tqdm(total=len(images) * len(cases), desc="errors", unit="image") as bar:
        errors = measurements.errors_by_case(lift.model, images, cases, args.seed, args.batch_size, device,
                                             args.precision, bar.update, args.reconciled)
    rows, bars = [], {}
    for case, by_scale in zip(cases, errors):
        for scale, values in zip(("64", "32"), by_scale):
            mean, standard_error = measurements.mean_and_standard_error(values)
            rows.append({"t": args.t, "case": case.name, "t_64": max(case.t_64, 0), "t_32": max(case.t_32, 0),
                         "scale": scale, "scored": "yes" if case.is_scored(scale) else "no", "mse": mean,
                         "standard_error": standard_error})
            if case.is_scored(scale):
                bars.setdefault(case.name.replace(", ", ",\n"), {})[f"{scale}×{scale}"] = (mean, standard_error)
            print(f"{case.name:20} {scale}x{scale}  {mean:.5f} ± {standard_error:.5f}"
                  + ("" if case.is_scored(scale) else "  (mean square of the untrained output at a clean input)"))
    return rows, figures.error_bars(bars, "mean squared noise error", f"Noisy scales at t = {args.t}")


def measure_beside_baseline(args, lift, baseline, images, device):
    """CSV rows and figure of LIFT's 64 error over the baseline's."""
    from lift.figures import model_error_curves
    from lift import measurements
    from scheduler import NUM_TIMESTEPS, CosineSteps
    timesteps = np.unique(np.rint(np.linspace(0, NUM_TIMESTEPS - 1, args.num_timesteps)).astype(np.int64))
    curves = measurements.comparison_curves(timesteps, args.leads, CosineSteps())
    with tqdm(total=len(images) * len(timesteps) * (1 + len(curves)), desc="errors", unit="call") as bar:
        of_baseline, of_lift = measurements.errors_beside_baseline(
            lift.model, baseline.model, images, timesteps, curves, args.seed, args.batch_size, device, args.precision,
            bar.update, args.reconciled)
    linear = measurements.linear_denoiser_of(baseline.model)
    if linear:
        of_linear, _ = measurements.errors_beside_baseline(None, linear, images, timesteps, {}, args.seed,
                                                           args.batch_size, device)
    rows, figure_curves = [], {}
    for label, t_32 in curves.items():
        figure_curves[label] = {"mse": [], "ratio": [], "ratio_standard_error": []}
        for k, t in enumerate(timesteps):
            mean, standard_error = measurements.mean_and_standard_error(of_lift[label][k])
            baseline_mean, baseline_error = measurements.mean_and_standard_error(of_baseline[k])
            ratio, ratio_error = measurements.ratio_and_standard_error(of_lift[label][k], of_baseline[k])
            rows.append({"curve": label, "t_64": int(t), "t_32": int(t_32[k]), "mse_lift": mean,
                         "mse_lift_standard_error": standard_error, "mse_baseline": baseline_mean,
                         "mse_baseline_standard_error": baseline_error, "ratio": ratio,
                         "ratio_standard_error": ratio_error}
                        | ({"mse_linear": measurements.mean_and_standard_error(of_linear[k])[0]} if linear else {}))
            for name, value in (("mse", mean), ("ratio", ratio), ("ratio_standard_error", ratio_error)):
                figure_curves[label][name].append(value)
        print(f"{label:20} LIFT / baseline: mean over t {np.mean(figure_curves[label]['ratio']):.3f}, "
              f"at t = 999 {figure_curves[label]['ratio'][-1]:.3f}")
    figure_curves = {label: {name: np.array(values) for name, values in curve.items()}
                     for label, curve in figure_curves.items()}
    return rows, model_error_curves(timesteps, of_baseline.mean(1), figure_curves,
                                          of_linear.mean(1) if linear else None)


def measure_on_own_inputs(args, lift, baseline, images, device):
    """CSV rows and figure of both models on noised images, on their own samples noised, and on their samplers' ways."""
    from lift import exposure
    from lift.figures import exposure_curves
    from lift.paths import path_without_map
    ways = [("baseline", baseline, "uniform")] + [("lift", lift, path) for path in args.paths]
    rows, curves = [], {}
    with tqdm(total=3 * len(images) * args.num_steps * len(ways), desc="errors", unit="call") as bar:
        for model_type, loaded, name in ways:
            path = path_without_map(name, args.num_steps)
            found = exposure.errors_and_norms(loaded.model, images, path, args.sampling_seed, args.seed,
                                              args.batch_size, device, args.precision, bar.update, args.reconciled)
            curves[f"{model_type}, {name}"] = of_way = exposure.rows_by_step(found, path)
            rows += [{"model": model_type, "path": name, **row} for row in of_way]
    for label, of_way in curves.items():
        mean = {name: np.mean([row[name] for row in of_way])
                for name in ("error_true", "error_own", "met_over_own", "met_over_true")}
        print(f"{label:20} mean over t: error {mean['error_true']:.5f} on images, {mean['error_own']:.5f} on own "
              f"samples; norm of the noise met / own {mean['met_over_own']:.4f}, met / true "
              f"{mean['met_over_true']:.4f}")
    return rows, exposure_curves(curves)


def main(argv=None):
    args = parse_args(argv)
    from lift import checkpoints, coupling, measurements
    outputs = outputs_beside(args.output, args.overwrite)
    device = start_device(args)

    lift = checkpoints.load_model(args.checkpoint, "lift", args.weights, device)
    baseline = args.compare_baseline and checkpoints.load_model(args.compare_baseline, "baseline", args.weights, device)
    if args.reconciled:
        coupling.check_can_disagree(lift.model, "--reconciled: found")
    image_set = load_images(args.dataset, args.split, args.cache_dir, **columns_in(vars(args)))
    measurements.check_enough(len(image_set), args.num_images, args.dataset, args.split)
    images = image_set.images[:args.num_images]
    if note := measurements.note_on_training_images(lift.options, images, args.cache_dir):
        print(note, flush=True)

    if args.inputs == "self":
        rows, fig = measure_on_own_inputs(args, lift, baseline, images, device)
    elif baseline:
        rows, fig = measure_beside_baseline(args, lift, baseline, images, device)
    else:
        rows, fig = measure_cases(args, lift, images, device)
    shared = {"checkpoint": printable(lift.path.name), "checkpoint_hash": lift.fingerprint, "weights": args.weights,
              "dataset": image_set.dataset, "split": args.split, "num_images": len(images), "seed": args.seed,
              "precision": args.precision, "predictions": "reconciled" if args.reconciled else "own"}
    if args.inputs == "self":
        shared |= {"num_steps": args.num_steps, "sampling_seed": args.sampling_seed}
    if baseline:
        shared |= {"baseline": printable(baseline.path.name), "baseline_hash": baseline.fingerprint}
    with written_together(args.overwrite):
        write_csv(outputs["csv"], [shared | row for row in rows], list(shared | rows[0]))
        save_png(outputs["png"], fig)
        write_run_record(outputs["json"], args, device, content_hash=image_set.content_hash, rows=rows)
    print("wrote " + ", ".join(map(str, outputs.values())))


if __name__ == "__main__":
    run_script(main)
