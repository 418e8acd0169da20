"""Which path cost predicts the sampling error, on mixtures of Gaussians whose law and denoiser are known exactly.

First, random paths: the rank correlation of every cost with the measured distance to the true law. Second, the paths
that an optimiser finds with each cost, at equal network calls. Distances are 2-Wasserstein distances per pixel between
Gaussians with the samples' and the true moments, raw and whitened.
"""
import json
import time
from pathlib import Path

from engine.command_line import Parser, real_number, run_script, whole_number, write_run_record
from engine.files import write_csv

LAWS = ["common last step", "free last step"]


def main():
    parser = Parser(__doc__.partition("\n")[0])
    parser.add_argument("--num_mixtures", type=whole_number(1), default=5, help="random mixtures")
    parser.add_argument("--falloff", type=real_number(0.2), default=0.5,
                        help="of the mixtures' spectra, f^(-2 falloff): photographs have about 1; at 0.5 both "
                             "distances see fine detail")
    parser.add_argument("--laws", nargs="+", choices=LAWS, default=LAWS[:1], metavar="LAW",
                        help=f"of the random paths: {', '.join(LAWS)}")
    parser.add_argument("--num_paths", type=whole_number(3), default=60, help="random paths per mixture")
    parser.add_argument("--path_steps", type=whole_number(3), default=10, help="steps of a random path")
    parser.add_argument("--path_samples", type=whole_number(2), default=1024, help="samples per random path")
    parser.add_argument("--num_images", type=whole_number(1), default=16,
                        help="true images that random paths' costs are measured on")
    parser.add_argument("--num_grid_images", type=whole_number(1), default=8,
                        help="true images that the named paths' costs are measured on")
    parser.add_argument("--num_steps", type=whole_number(1), default=18, help="steps of the named paths")
    parser.add_argument("--num_samples", type=whole_number(2), default=16384, help="samples per named path")
    parser.add_argument("--grid", type=whole_number(2), default=30, help="grid points of the named paths")
    parser.add_argument("--max_jump", type=whole_number(1), default=5, help="cells a step may cross per axis")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of mixtures, paths and noise")
    parser.add_argument("--output_dir", type=Path, default=Path("results"), metavar="FOLDER", help="where tables go")
    parser.add_argument("--output_name", default="path_costs", metavar="NAME", help="of NAME.csv and NAME.json")
    parser.add_argument("--num_threads", type=whole_number(1), default=1, metavar="THREADS", help="CPU threads")
    args = parser.parse_args()
    import numpy as np
    import torch
    from lift import exact_mixture
    from scripts.benchmarks.path_cost_tables import NORMS, check_claims, correlate, tabulate
    torch.set_num_threads(args.num_threads)
    start = time.perf_counter()
    correlations, table, spreads = [], [], []
    for k in range(args.num_mixtures):
        mixture = exact_mixture.random_mixture(args.seed + k, falloff=args.falloff)
        random = np.random.default_rng([args.seed + k, 1])
        for law in args.laws:
            rows, spread = correlate(mixture, args, law == "common last step", random)
            correlations += [{"mixture": k, "law": law, **row} for row in rows]
            spreads.append({"mixture": k, "law": law, **spread})
            print(f"\nmixture {k}, {args.num_paths} random paths of {args.path_steps} steps, {law}: distances "
                  f"{spread['distance_min']} to {spread['distance_max']}; rank correlation raw, whitened")
            for row in rows:
                print(f"  {row['cost']:38s} {row['raw']:6.2f} {row['whitened']:6.2f}", flush=True)
        rows = tabulate(mixture, args, k)
        table += rows
        print(f"\nmixture {k}, {args.num_steps} steps: distance raw, whitened, share of points where 32 leads, kind")
        for row in rows:
            print(f"  {row['path']:38s} {row['raw']:.4f} {row['whitened']:.4f} {row['share_32_leads']!s:5} "
                  f"{row['kind']} {row['parameters']}", flush=True)
    claims = check_claims(correlations, table, args.num_mixtures)
    print("\nmean over the mixtures: rank correlation raw, whitened")
    for law in dict.fromkeys(row["law"] for row in correlations):
        for cost in dict.fromkeys(row["cost"] for row in correlations):
            means = [np.mean([row[norm] for row in correlations if (row["law"], row["cost"]) == (law, cost)])
                     for norm in NORMS]
            print(f"  {law}: {cost:38s} {means[0]:6.2f} {means[1]:6.2f}")
    print("\nmean over the mixtures: distance raw, whitened")
    for path in dict.fromkeys(row["path"] for row in table):
        means = [np.mean([row[norm] for row in table if row["path"] == path]) for norm in NORMS]
        print(f"  {path:38s} {means[0]:.4f} {means[1]:.4f}")
    write_csv(args.output_dir / f"{args.output_name}.csv", table, list(table[0]))
    write_run_record(args.output_dir / f"{args.output_name}.json", args, seconds=round(time.perf_counter() - start, 1),
                     correlations=correlations, random_path_distances=spreads, paths=table, claims=claims)
    share = sum(claim["ok"] for claim in claims.values()) / len(claims)
    print(json.dumps({"benchmark": "path_costs", "ratio": share, "target": 1.0, "ok": share == 1, "claims": claims}))


if __name__ == "__main__":
    run_script(main)
