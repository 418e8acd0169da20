#!/usr/bin/env python3
"""Search the lead family of paths: spacing, lead of the 32 scale in log SNR, onset; for the baseline, spacing alone.

Candidates are scored by step doubling on real noised images, the best of them by the sliced Wasserstein distance of
images generated from held-out seeds. Both models have the same number of candidates. The winner is added to the
checkpoint's heatmap (for the baseline, the file of lift.compute_schedule), where `--path lead` finds it.
"""
from pathlib import Path

from engine.command_line import (Parser, add_device_options, run_script, seed_number, start_device, whole_number,
                                 write_run_record)
from data import add_data_options, columns_in, load_images
from engine.errors import InputError
from engine.files import check_can_be_written, refuse_existing, save_torch
from engine.options import WEIGHTS


def parse_args(argv=None):
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="of either model")
    parser.add_argument("--weights", choices=WEIGHTS, default="ema", help="which of its weights")
    parser.add_argument("--heatmap", type=Path, default=None, metavar="FILE",
                        help="file to add the winner to; left out: the checkpoint's own in --output_dir")
    add_data_options(parser, columns=True)
    parser.add_argument("--split", default="train", help="images for step doubling, and the reference")
    parser.add_argument("--edge_images", type=whole_number(1), default=8, metavar="IMAGES", help="for step doubling")
    parser.add_argument("--num_images", type=whole_number(2), default=256, metavar="IMAGES",
                        help="generated per finalist; must be enough to tell them apart")
    parser.add_argument("--num_finalists", type=whole_number(1), default=4, metavar="PATHS", help="that are generated")
    parser.add_argument("--num_steps", type=whole_number(1), default=18, metavar="STEPS", help="steps of the path")
    parser.add_argument("--grid", type=whole_number(2, 1000), default=30, metavar="POINTS", help="of the heatmap file")
    parser.add_argument("--batch_size", type=whole_number(1), default=64, metavar="IMAGES", help="generated at once")
    parser.add_argument("--seed", type=seed_number, default=1042,
                        help="of noise and images: held out, evaluation uses 42 and up")
    parser.add_argument("--output_dir", type=Path, default=Path("results"), metavar="FOLDER", help="for the record")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier winner")
    add_device_options(parser, precision="float32")      # differences between costs are small
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    import torch
    from engine.sampling import from_uint8, to_uint8
    from evaluation import sliced_wasserstein
    from lift import checkpoints, heatmap_file, path_costs
    from lift.generation import load_schedule, name_of
    from lift.sampling import generate
    device = start_device(args)
    loaded = checkpoints.load_model(args.checkpoint, None, args.weights, device)
    file = args.heatmap or heatmap_file.heatmap_path(args.output_dir, args.grid, name_of(args.checkpoint),
                                                     loaded.epochs, loaded.weights)
    load = {"lift": heatmap_file.load_heatmap, "baseline": load_schedule}[loaded.model_type]
    heatmap = load(file, args.grid)
    heatmap_file.check_heatmap_matches(file, heatmap, loaded, can_be_allowed=False)
    check_can_be_written(file)
    if "lead" in heatmap and not args.overwrite:
        raise InputError(f"{file}: holds a winner of an earlier search; add --overwrite to replace it")
    record = args.output_dir / f"lead_{name_of(args.checkpoint)}_{loaded.epochs}ep_{args.num_steps}steps.json"
    refuse_existing(record, args.overwrite)
    image_set = load_images(args.dataset, args.split, args.cache_dir, **columns_in(vars(args)))
    x_0 = from_uint8(torch.from_numpy(image_set.images[:args.edge_images].copy())).to(device)
    reference = sliced_wasserstein.reference_profile(image_set, args.cache_dir, device=device)

    def swd_of(path) -> float:
        batches = [generate(loaded.model, path, args.seed, range(start, min(start + args.batch_size, args.num_images)),
                            precision=args.precision).x_64 for start in range(0, args.num_images, args.batch_size)]
        images = to_uint8(torch.cat(batches))
        return sliced_wasserstein.distance(sliced_wasserstein.profile(images, device=device), reference)["swd"]

    winner, rows = path_costs.search_lead(loaded.model, x_0, args.num_steps, sample_metric=swd_of,
                                          num_finalists=args.num_finalists, seed=args.seed, precision=args.precision,
                                          progress=True)
    heatmap["lead"] = {"rho": winner.rho, "lead": winner.lead, "onset": winner.onset}
    heatmap["lead_num_steps"] = args.num_steps
    for row in rows:
        row["path"] = row["path"].tolist()
    save_torch(file, heatmap)
    # Last: where there is a record, there is a winner in the file.
    write_run_record(record, args, device, checkpoint_fingerprint=loaded.fingerprint, winner=heatmap["lead"],
                     candidates=rows)
    print("   rho    lead  onset  step doubling      swd")
    for row in rows[:args.num_finalists]:
        print(f"{row['rho']:6.2f}  {row['lead']:6.2f}  {row['onset']:5.2f}  {row['step_doubling']:13.5g}  "
              f"{row['sample_metric']:7.2f}")
    print(f"the first is `--path lead` of {file} from now on; all {len(rows)} candidates are in {record}")


if __name__ == "__main__":
    run_script(main)
