"""What is shown of a heatmap: its figures, and the table of its paths."""
from lift import path_summary
from lift import paths
from evaluation import figures
from engine.files import named_file


def outputs_of(path) -> dict:
    """The figures' files beside a heatmap file: kind -> path."""
    path = named_file(path)
    return {"maps": path.with_suffix(".png"), "blocks": path.with_name(f"{path.stem}_blocks.png"),
            "steps": path.with_name(f"{path.stem}_steps.png")}


def draw(heatmap: dict, rows: list[dict], step_size: str, max_jump: int, num_resamples: int, title: str = "") -> dict:
    """The figures by kind: maps (with paths), blocks (of the Jacobian), steps (error per step along each path).

    rows: from `path_summary.summarize_paths`. A path that reads the 64 error is drawn on it, all others on the total, the
    diagonal on both; its band holds 90 % of the paths found from images drawn with replacement.
    """
    timesteps, drawn = heatmap["timesteps"].numpy(), {"64": {}, "total": {}}
    for row in rows:
        points = path_summary.grid_position(row["timesteps"], timesteps)
        parts = {"path": points, "identity": None, "band": None}
        if row["identity_timesteps"] is not None:
            parts["identity"] = path_summary.grid_position(row["identity_timesteps"], timesteps)
        if row["identity_timesteps"] is not None and num_resamples:
            resampled = path_summary.bootstrap(heatmap, row["path"], len(points) - 1, step_size=step_size,
                                            max_jump=max_jump, num_resamples=num_resamples,
                                            seed=heatmap["options"]["seed"])
            parts["band"] = paths.path_band(path_summary.grid_position(resampled, timesteps))
        for panel in ("64", "total"):
            if row["path"] == "diagonal" or (panel == "64") == row["path"].endswith("64"):
                drawn[panel][row["path"]] = parts
    error_64, error_32 = heatmap["error_64"].numpy(), heatmap["error_32"].numpy()
    prediction = heatmap["options"]["prediction"]
    return {
        "maps": figures.error_maps(timesteps, error_64, error_64 + error_32, drawn["64"],
                                 drawn["total"], title),
        "blocks": figures.jacobian_blocks(timesteps, heatmap["blocks"][prediction],
                                        f"Squared Jacobian norms of the {prediction} prediction, output ← input"),
        "steps": figures.step_error_bars({row["path"]: path_summary.step_errors(heatmap, row["timesteps"], step_size)
                                        for row in rows}, title=f"Error per step, step size {step_size}"),
    }


def title_of(heatmap: dict) -> str:
    """One line that says what a heatmap is of."""
    options = heatmap["options"]
    return (f"{heatmap['checkpoint']} ({heatmap['weights']}), {options['prediction']} prediction, "
            f"chain rule {options['chain_rule']}, {options['normalization'].replace('_', ' ')}")


def table(rows: list[dict]) -> str:
    """The paths as a table: cost, the identity path's cost on the same map, the distance between them, and the kind."""
    lines = [("path", "cost", "identity path", "distance (cells)", "32 leads", "kind")]
    for row in rows:
        lines.append((row["path"], f"{row['cost']:.5g}",
                      *("-" if row[key] is None else f"{row[key]:.{digits}}"
                        for key, digits in (("identity_cost", "5g"), ("distance", "2f"))),
                      f"{row['share_32_leads']:.0%}", row["kind"]))
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) if k in (0, 5) else cell.rjust(width)
                               for k, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def record(rows: list[dict]) -> list[dict]:
    """The rows of `summarize_paths` as plain types for a run record."""
    return [{key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()} for row in rows]
