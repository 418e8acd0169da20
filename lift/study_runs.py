"""The trainings of S1's study: the name of each, the command that trains it, and the baseline it is compared with.

`scripts/study.sh` trains them and `lift/study_tables.py` labels their rows. A new training is a line in RUNS.
"""
from dataclasses import dataclass

V_EPS = "--parametrization v"                       # puts out v, learns with the loss of the noise
V = f"{V_EPS} --loss_target v"
RESIDUAL = "--parametrization residual"
NEAR = "--timesteps band --band_lead 0 2 --band_noise_share 0 --band_independent_share 0"


@dataclass(frozen=True)
class Run:
    """One training. label: its name in tables; options: of `train_baseline.py` or `train_lift.py`."""
    label: str
    options: str = ""


# By name, in the order of the tables.
RUNS = {
    "baseline": Run("baseline"),
    "lift_independent": Run("LIFT, independent timesteps", "--timesteps independent"),
    "lift_band": Run("LIFT, band", "--timesteps band"),
    "lift_diagonal": Run("LIFT, diagonal timesteps", "--timesteps diagonal"),
    "lift_light32": Run("LIFT, 32 loss weighted 0.1", "--loss_weight_32 0.1"),
    "lift_loss64": Run("LIFT, loss on 64 only", "--loss_scales 64"),
    "baseline_v": Run("baseline, v, loss of v", V),
    "lift_independent_v": Run("LIFT, independent, v, loss of v", f"--timesteps independent {V}"),
    "baseline_v_eps": Run("baseline, v, loss of the noise", V_EPS),
    "lift_independent_v_eps": Run("LIFT, independent, v, loss of the noise", f"--timesteps independent {V_EPS}"),
    "lift_native_v_eps": Run("LIFT, 32 at its own level, v, loss of the noise",
                             f"--timesteps independent --native_32 {V_EPS}"),
    "lift_native_band_v_eps": Run("LIFT, 32 at its own level, band, v, loss of the noise",
                                  f"--timesteps band --native_32 {V_EPS}"),
    "lift_native_light32_v_eps": Run("LIFT, 32 at its own level, its loss weighted 0.1, v, loss of the noise",
                                     f"--timesteps independent --native_32 --loss_weight_32 0.1 {V_EPS}"),
    "baseline_residual": Run("baseline, residual", RESIDUAL),
    "lift_native_residual": Run("LIFT, 32 at its own level, residual",
                                f"--timesteps independent --native_32 {RESIDUAL}"),
    "lift_native_band_residual": Run("LIFT, 32 at its own level, band, residual",
                                     f"--timesteps band --native_32 {RESIDUAL}"),
    "lift_native_near_residual": Run("LIFT, 32 at its own level, leads 0 to 2 alone, residual",
                                     f"{NEAR} --native_32 {RESIDUAL}"),
    "lift_native_fused_residual": Run("LIFT, 32 at its own level, fused leads 0 to 2, residual",
                                      f"--timesteps fused --native_32 {RESIDUAL}"),
    "lift_native_skip_residual": Run("LIFT, 32 at its own level, 64 skipped at noise, residual",
                                     f"--native_32 --skip_64_at_noise 0.1 {RESIDUAL}"),
    # Its loss is asked of the baseline's pairs of times. Of bands, these are the baseline itself: what would tell their
    # lead has no gradient at equal times.
    "lift_native_diagonal_residual": Run("LIFT, 32 at its own level, diagonal timesteps, residual",
                                         f"--timesteps diagonal --native_32 {RESIDUAL}"),
    "lift_bands_residual": Run("two bands, clock, residual", f"--bands --timesteps clock {RESIDUAL}"),
}
# One time against two: whose constants of sampling are chosen, and which losses are sampled in each other's way.
CONTESTED = ("baseline_residual", "lift_native_residual", "lift_native_near_residual", "lift_native_fused_residual",
             "lift_native_skip_residual", "lift_bands_residual")
SWAPPED = ("baseline_residual", "lift_native_residual", "lift_native_near_residual", "lift_native_fused_residual",
           "lift_native_diagonal_residual", "lift_bands_residual")
LABELS = {name: run.label for name, run in RUNS.items()}


def command_of(name: str) -> str:
    """Script and options of a run's training."""
    script = "train_baseline.py" if name.startswith("baseline") else "train_lift.py"
    return f"{script} {RUNS[name].options}".rstrip()


def opponent_of(name: str) -> str:
    """The baseline that a run is compared with: the one of the same output and loss."""
    ending = next((ending for ending in ("_residual", "_v_eps", "_v") if name.endswith(ending)), "")
    return f"baseline{ending}"
