"""How images are drawn of a flow checkpoint: guidance, grid, classes, and the autoencoder where it models latents."""
from engine.denoiser import Corrected, Denoiser, Guided, NetworkDenoiser, check_guidance, refuse_student
from engine.drawing import Drawing
from engine.errors import InputError
from flow.grids import check_grid, find_path
from flow.latents import Latents, decoder_of
from flow.model import ANY_AUTOENCODER, LoadedFlow
from flow.options import check_guides, guidance_scale_of, interval_in_log_snr
from scheduler import LinearFlow, NoiseProcess


def chosen_classes(labels, num_classes: int, names) -> list[int]:
    """The numbers of the classes in --labels; without it, of all classes. Raises InputError for an unknown class."""
    if labels is None:
        return list(range(num_classes))
    names = list(names or [])
    chosen = []
    for label in labels:
        number = names.index(label) if label in names else int(label) if label.isdecimal() else -1
        if not 0 <= number < num_classes:
            known = f" ({', '.join(names[:20])})" if names else ""
            raise InputError(f"--labels: found {label}, expected a class from 0 to {num_classes - 1}{known}")
        chosen.append(number)
    return chosen


def latents_of(loaded: LoadedFlow, vae, device) -> Latents | None:
    """The autoencoder of the model's latents; None for a model of pixels. vae: --vae, or None for the one of the
    training. Raises InputError for another autoencoder."""
    if loaded.vae_fingerprint is None:
        if vae is not None:
            raise InputError(f"--vae: found {vae}, but {loaded.path} is a model of pixels; leave it out")
        return None
    folder = vae or loaded.vae
    if folder is None:
        raise InputError(f"--vae: {loaded.path} has published weights of a model of latents; name their autoencoder")
    latents = Latents(folder, device)
    if loaded.vae_fingerprint not in (latents.fingerprint, ANY_AUTOENCODER):
        raise InputError(f"--vae: {folder}: its weights are not those that {loaded.path} was trained "
                         "with; give the folder of that autoencoder")
    return latents


def check_sampling(args) -> None:
    """Raises InputError for sampling options that contradict each other, before any file is read."""
    check_grid(args.grid, args.shift, args.solver)
    interval_in_log_snr(args.guidance_interval, LinearFlow())
    check_guides(args)


def guided_as_asked(denoiser: NetworkDenoiser, args, process: NoiseProcess, reuse: float = 0.0) -> Denoiser:
    """A denoiser with guidance and the correction of exposure bias as the options of sampling have them. reuse: as in
    `Guided`; a grid is measured without it."""
    guided = Guided(denoiser, args.guidance_scale, interval_in_log_snr(args.guidance_interval, process), reuse)
    return Corrected.where_asked(guided, args.eps_scale, args.told_log_snr)


def drawing_of(loaded: LoadedFlow, args, device) -> Drawing:
    """How the model's images are drawn. args: those of `flow.options.add_sampling_options`, labels, vae and precision;
    a --guidance_scale that was left out is filled in.

    Raises InputError for options that ask for something the model does not have: a null class, a second scale, a class,
    an autoencoder; and for a student of few steps.
    """
    refuse_student(loaded.few_steps, loaded.path)
    args.guidance_scale = guidance_scale_of(args.guidance_scale, loaded.is_guidable)
    check_guidance(args.guidance_scale, loaded.is_guidable, loaded.path)
    check_guides(args)
    denoiser = guided_as_asked(loaded.denoiser, args, LinearFlow())
    if len(denoiser.processes) == 1 and args.coarse_shift != 1:
        raise InputError(f"--coarse_shift: found {args.coarse_shift:g}, but {loaded.path} has one scale; leave it out")
    classes = chosen_classes(args.labels, loaded.network.num_classes, loaded.label_names)
    latents = latents_of(loaded, args.vae, device)
    path = find_path(denoiser, args.grid, args.num_steps, args.solver, shift=args.shift, coarse_shift=args.coarse_shift,
                     classes=classes, precision=args.precision, device=device)
    return Drawing(guided_as_asked(loaded.denoiser, args, LinearFlow(), args.guidance_reuse), path, classes,
                   decoder_of(latents), device=device,
                   how={"solver": args.solver, "clip": False, "precision": args.precision})
