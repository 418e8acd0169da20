"""Why a model may fail to draw the class asked for: measurements, and sentences about them."""
import torch

from engine.denoiser import NetworkDenoiser
from engine.sampling import from_uint8, start_noise
from scheduler import CosineSteps, noise_added, training_target

LEAST_DISTANCE = 0.05           # between two classes' codes, in lengths of a code
LEAST_EFFECT = 0.01             # of the class on the predicted clean image, as a share of its root mean square
LEAST_GRADIENT = 1e-8           # of a layer, as a share of the whole gradient's norm
LEAST_ACCURACY, MOST_DIFFERENCE = 0.5, 0.25


def code_distances(network) -> torch.Tensor:
    """Distances between the learned codes of the K classes and of no class, in mean lengths of a code: [K + 1, K +
    1]."""
    codes = network.class_tokens.weight if network.conditioning == "cross_attention" else network.class_maps.flatten(1)
    codes = codes.detach().double()
    return torch.cdist(codes, codes) / codes.norm(dim=1).mean()


def ways_of(model, w: float) -> dict:
    """Ways of sampling: name -> (path, guidance scale, options). A deterministic and a random sampler, each conditional
    and guided."""
    is_diffusion = isinstance(model.denoiser.processes[0], CosineSteps)
    ways = {("DDIM 50" if is_diffusion else "Euler 50"): (model.path(50), {"solver": "ddim"}),
            ("DDPM 1000" if is_diffusion else "midpoint 10"):
            (model.path(1000, "ddpm"), {"eta": 1.0}) if is_diffusion else (model.path(10), {"solver": "midpoint"})}
    return {f"{name}, w = {scale:g}": (path, scale, how) for name, (path, how) in ways.items() for scale in (1.0, w)}


@torch.inference_mode()
def class_effects(denoiser: NetworkDenoiser, path: torch.Tensor, seed: int = 0) -> dict[float, float]:
    """The effect of the class at a few times of a path: time -> distance between the clean images predicted with and
    without the class, over the root mean square of the former. The sampling starts from pure noise for every class."""
    labels = torch.arange(denoiser.num_classes)
    [x] = start_noise(denoiser.shapes, seed, range(len(labels)))
    effects = {}
    for t in path[:-1][::max(1, len(path) // 5)].tolist():
        times = torch.full((len(x),), t, dtype=path.dtype)
        [of_class], [of_none] = denoiser.clean([x], [times], labels), denoiser.clean([x], [times])
        effects[t] = float((of_class - of_none).square().mean().sqrt() / of_class.square().mean().sqrt())
    return effects


def gradient_norms(denoiser: NetworkDenoiser, x_0: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> dict:
    """Share of each layer in the gradient of the loss: layer -> its norm over that of all layers. x_0: images or
    latents [B, ...], one batch with times all over the process."""
    process, network = denoiser.processes[0], denoiser.network
    generator = torch.Generator().manual_seed(seed)
    share = (torch.arange(len(x_0)) + 0.5) / len(x_0)
    t = process.noisiest + share * (process.clean - process.noisiest)
    t = t.clamp(0).long() if isinstance(process, CosineSteps) else t
    a, s = process.levels(t)
    eps = torch.randn(x_0.shape, generator=generator)
    with torch.enable_grad():
        parameters = {name: p.requires_grad_() for name, p in network.named_parameters()}
        output = network(noise_added(x_0, eps, a, s), denoiser.network_time(t), labels)
        loss = (output - training_target(denoiser.kind, x_0, eps, a, s)).square().mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    squares = {}
    for name, gradient in zip(parameters, gradients):
        layer = ".".join(name.split(".")[:2]).removesuffix(".weight").removesuffix(".bias")
        squares[layer] = squares.get(layer, 0.0) + (0.0 if gradient is None else float(gradient.square().sum()))
    total = sum(squares.values()) or 1.0
    return {layer: (square / total) ** 0.5 for layer, square in squares.items()}


def findings(distances: torch.Tensor, effects: dict, gradients: dict, accuracies: dict[str, float]) -> list[str]:
    """A sentence for everything that looks wrong. distances, effects, gradients: from the functions above. accuracies:
    way of sampling -> share of the images that are of the class asked for."""
    found = []
    apart = distances.clone().fill_diagonal_(torch.inf)
    if float(apart.min()) < LEAST_DISTANCE:
        first, second = divmod(int(apart.argmin()), len(apart))
        found.append(f"the codes of classes {first} and {second} are nearly the same (distance {apart.min():.3g})")
    if max(effects.values()) < LEAST_EFFECT:
        found.append(f"the class changes the prediction by {max(effects.values()):.2g} of its size at most, so that it "
                     "hardly reaches the network")
    idle = [layer for layer, norm in gradients.items() if norm < LEAST_GRADIENT]
    if idle:
        found.append(f"{len(idle)} layers get no gradient, {idle[0]} among them")
    weak = [way for way, accuracy in accuracies.items() if accuracy < LEAST_ACCURACY]
    if weak:
        found.append(f"{weak[0]} draws the class asked for in {accuracies[weak[0]]:.0%} of the images only")
    if accuracies and max(accuracies.values()) - min(accuracies.values()) > MOST_DIFFERENCE:
        best, worst = max(accuracies, key=accuracies.get), min(accuracies, key=accuracies.get)
        found.append(f"{worst} ({accuracies[worst]:.0%} right) falls far behind {best} ({accuracies[best]:.0%})")
    return found


def latents_of(model, images: torch.Tensor) -> torch.Tensor:
    """The network's own form of images, float images or latents. images: uint8 [B, C, S, S], already padded."""
    x = from_uint8(images)
    return x if model.vae is None else model.vae.encode(x)
