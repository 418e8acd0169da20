"""Checkpoints: what is in one, how it is found, and how a model comes out of it.

An epoch checkpoint `{name}_{E}ep.pth` is a dictionary of plain types: `model_state` (raw weights), `ema_state`
(`shadow` weights and `decay`), `hidden_dims`, `parametrization` (eps where it is missing), `model_type`, `epochs`,
`step`, `losses`, `options`, and `skip_64_at_noise` where LIFT does so. Checkpoints of the earlier implementation
(`model_state`, `hidden_dims`, `losses`, `epochs`, `optimizer_state`, perhaps `ema_state`) load as well.
"""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from baseline_model import BaselineModel
from engine.denoiser import refuse_student
from engine.errors import InputError
from engine.files import expecting, load_torch
from engine.run_files import epoch_of, weights_in
from model import LIFTBandModel, LIFTDualTimestepModel
from networks.unet import PARAMETRIZATIONS

MODELS = {"baseline": BaselineModel, "lift": LIFTDualTimestepModel}


@dataclass
class LoadedModel:
    """A model ready to be used, and where it came from."""
    model: torch.nn.Module      # in eval mode, float32 parameters, channels-last, on the device asked for
    model_type: str             # baseline or lift
    weights: str                # ema or raw
    path: Path
    fingerprint: str            # first 16 hex digits of the file's SHA-256
    epochs: int
    options: dict               # of the training run; empty for checkpoints of the earlier implementation


def build_model(model_type: str, hidden_dims, parametrization: str = "eps", native_32: bool = False,
                bands: bool = False, skip_64_at_noise: bool = False):
    """A freshly initialised model. native_32, bands, skip_64_at_noise: of LIFT alone, bands without the others. Raises
    InputError for what cannot be built."""
    if bands:
        return LIFTBandModel([int(c) for c in hidden_dims], parametrization)
    only_lift = {"native_32": native_32, "skip_64_at_noise": skip_64_at_noise} if model_type == "lift" else {}
    return MODELS[model_type]([int(c) for c in hidden_dims], parametrization, **only_lift)


def type_of_weights(state: dict) -> str:
    """Whether a state dict belongs to the baseline or to LIFT, told by its parameter names."""
    return "lift" if any(name.startswith(("time_combine", "lead_mlp")) for name in state) else "baseline"


def is_native_32(state: dict) -> bool:
    """Whether a LIFT state dict has the 32 scale at its own level, told by its parameter names."""
    return any(name.startswith("init_conv_32") for name in state)


def has_bands(state: dict) -> bool:
    """Whether a LIFT state dict is one of two bands, told by its parameter names."""
    return any(name.startswith("lead_mlp") for name in state)


def load_content(path, digest) -> dict:
    """The dictionary in a checkpoint file. digest: as in `load_torch`. Raises InputError if the file is no
    checkpoint."""
    content = load_torch(path, "checkpoint", digest)
    missing = [key for key in ("model_state", "hidden_dims") if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path}: no {' and no '.join(missing)} in it, expected a checkpoint written by "
                         "train_baseline.py or train_lift.py")
    return content


def weights_of(content: dict, weights: str, path) -> dict:
    """The state dict for `weights` (ema or raw). Raises InputError where EMA weights are asked for and absent."""
    if weights == "raw":
        return content["model_state"]
    if not content.get("ema_state"):
        raise InputError(f"{path}: has no EMA weights; use --weights raw")
    # The average covers parameters; anything else in the state dict is taken from the model itself.
    without = [name for name in content["model_state"] if name not in content["ema_state"]["shadow"]
               and not name.startswith("linear_denoiser.")]
    if without:
        raise InputError(f"{path}: has no EMA weights for {without[0]}, expected them for every parameter; restore it, "
                         "or use --weights raw")
    return weights_in(content)


def load_model(path, model_type: str | None = None, weights: str = "ema", device="cpu") -> LoadedModel:
    """Load a checkpoint into its model.

    model_type: what the caller can use; None takes either. weights: ema or raw. Raises InputError if the file is
    missing, damaged, foreign, of the other model type, without the weights asked for, or a student of few steps.
    """
    with expecting(path, "checkpoint"):
        digest = hashlib.sha256()
        content = load_content(path, digest)
        refuse_student(content.get("few_steps"), path)
        return model_of(content, digest.hexdigest()[:16], path, model_type, weights, device)


def model_of(content: dict, fingerprint: str, path, model_type, weights: str, device) -> LoadedModel:
    """The model in a checkpoint's content; the rest as in `load_model`."""
    found = type_of_weights(content["model_state"])
    if model_type not in (None, found):
        raise InputError(f"{path}: is a {found} checkpoint, expected a {model_type} checkpoint")
    parametrization = content.get("parametrization", "eps")
    if parametrization not in PARAMETRIZATIONS:
        raise InputError(f"{path}: its parametrization is {str(parametrization)[:50]!r}, expected "
                         f"{', '.join(PARAMETRIZATIONS)}; use the version of this repository that wrote it")
    model = build_model(found, content["hidden_dims"], parametrization, is_native_32(content["model_state"]),
                        has_bands(content["model_state"]), bool(content.get("skip_64_at_noise")))
    state = weights_of(content, weights, path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not fit a {found} model with hidden dims "
                         f"{list(content['hidden_dims'])} ({str(error).splitlines()[1].strip()[:120]})") from error
    broken = next((name for name, value in state.items() if not torch.isfinite(value).all()), None)
    if broken:
        raise InputError(f"{path}: {weights} weight {broken} is not finite; use an earlier checkpoint")
    model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    return LoadedModel(model, found, weights, Path(path), fingerprint,
                       int(content.get("epochs") or epoch_of(path)), content.get("options") or {})
