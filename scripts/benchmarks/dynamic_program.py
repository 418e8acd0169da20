"""Measure the dynamic program over paths against plain nested loops: seconds of one core, and whether the costs
agree."""
import json
import math
import time

import numpy as np

from engine.command_line import Parser, run_script, whole_number

TARGET_RATIO, TARGET_SECONDS, TARGET_SECONDS_30 = 150, 0.15, 0.005
COST_TOLERANCE = 1e-12


def cheapest_cost_by_loops(error: np.ndarray, num_steps: int, max_jump: int) -> float:
    """The cheapest cost with `index` step sizes, one cell and one jump after another, as a first version does it."""
    n = len(error)
    values = np.full((num_steps + 1, n, n), np.inf)
    values[0, 0, 0] = 0.0
    for step in range(num_steps):
        for i in range(n):
            for j in range(n):
                if values[step, i, j] == np.inf:
                    continue
                for di in range(min(max_jump, n - 1 - i) + 1):
                    for dj in range(min(max_jump, n - 1 - j) + 1):
                        if di == 0 and dj == 0:
                            continue
                        distance = math.sqrt(di**2 + dj**2)
                        cost = values[step, i, j] + (error[i, j] + error[i + di, j + dj]) / 2 * distance
                        if cost < values[step + 1, i + di, j + dj]:
                            values[step + 1, i + di, j + dj] = cost
    return float(values[-1, -1, -1])


def seconds_of(call, repeats: int) -> tuple[float, object]:
    """The least of `repeats` times in seconds of one core, and what the call returned.

    It is the processor time of this process, which runs one thread. Other programs on the machine do not count.
    """
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        times.append(time.process_time() - start)
    return min(times), result


def main():
    parser = Parser(__doc__)
    parser.add_argument("--grid", type=whole_number(2), default=100, help="points per axis")
    parser.add_argument("--num_steps", type=whole_number(1), default=18, help="steps of the path")
    parser.add_argument("--max_jump", type=whole_number(1), default=17, help="cells a step may cross per axis")
    parser.add_argument("--repeats", type=whole_number(1), default=9, help="timings, of which the least counts")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the made-up error map")
    args = parser.parse_args()
    import torch
    from lift import dynamic_program, paths
    torch.set_num_threads(1)

    def find(error, max_jump):
        return dynamic_program.cheapest_path(paths.edge_costs_index(error, max_jump), args.num_steps)

    error = np.random.default_rng(args.seed).lognormal(0, 1, (args.grid, args.grid))
    seconds, (_, cost) = seconds_of(lambda: find(error, args.max_jump), args.repeats)
    print(f"vectorised, {args.grid}x{args.grid}, {args.num_steps} steps, max jump {args.max_jump}: {seconds:.4f} s",
          flush=True)
    seconds_30, _ = seconds_of(lambda: find(error[:30, :30], 5), args.repeats)
    print(f"vectorised, 30x30, {args.num_steps} steps, max jump 5: {seconds_30 * 1000:.2f} ms", flush=True)
    seconds_plain, cost_plain = seconds_of(
        lambda: cheapest_cost_by_loops(error, args.num_steps, args.max_jump), 1)
    print(f"nested loops: {seconds_plain:.2f} s, cost {cost_plain:.12g} against {cost:.12g}", flush=True)
    ratio, difference = seconds_plain / seconds, abs(cost / cost_plain - 1)
    ok = (ratio >= TARGET_RATIO and seconds < TARGET_SECONDS and seconds_30 < TARGET_SECONDS_30
          and difference <= COST_TOLERANCE)
    print(json.dumps({"ratio": round(ratio, 1), "target": TARGET_RATIO, "ok": bool(ok), "seconds": seconds,
                      "target_seconds": TARGET_SECONDS, "seconds_30": seconds_30,
                      "target_seconds_30": TARGET_SECONDS_30, "seconds_plain": seconds_plain,
                      "relative_cost_difference": difference}))


if __name__ == "__main__":
    run_script(main)
