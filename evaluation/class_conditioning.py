"""Does the class reach the network? Measurements of a denoiser with classes, and sentences about them."""
import torch

from engine.denoiser import NetworkDenoiser
from engine.denoising_task import Batch, output_errors
from engine.sampling import start_noise
from scheduler import CosineSteps

LEAST_DISTANCE = 0.05           # between two classes' codes, in lengths of a code
LEAST_EFFECT = 0.01             # of the class on the predicted clean image, as a share of its root mean square
LEAST_GRADIENT = 1e-8           # of a layer, as a share of the whole gradient's norm
LEAST_ACCURACY, MOST_DIFFERENCE = 0.5, 0.25


def code_distances(codes: torch.Tensor) -> torch.Tensor:
    """Distances between the learned codes of the classes, and of no class if it has one, in mean lengths of a code:
    [K, D] -> float64 [K, K] on the CPU."""
    codes = codes.detach().cpu().double()
    return torch.cdist(codes, codes) / codes.norm(dim=1).mean()


@torch.inference_mode()
def class_effects(denoiser: NetworkDenoiser, path: torch.Tensor, seed: int = 0) -> dict[float, float]:
    """The effect of the class at a few times of a path: time -> distance between the clean images predicted with and
    without the class, over the root mean square of the former. The sampling starts from pure noise for every class."""
    device = next(denoiser.network.parameters()).device
    labels = torch.arange(denoiser.num_classes, device=device)
    [x] = start_noise(denoiser.shapes, seed, range(len(labels)), device)
    effects = {}
    for t in path[:-1][::max(1, len(path) // 5)].tolist():
        times = torch.full((len(x),), t, dtype=path.dtype, device=device)
        [of_class], [of_none] = denoiser.clean([x], [times], labels), denoiser.clean([x], [times])
        effects[t] = float((of_class - of_none).square().mean().sqrt() / of_class.square().mean().sqrt())
    return effects


def gradient_norms(denoiser: NetworkDenoiser, x_0: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> dict:
    """Share of each layer in the gradient of the loss: layer -> its norm over that of all layers. x_0: images or
    latents [B, ...] on the network's device, one batch with times all over the process."""
    process, network = denoiser.processes[0], denoiser.network
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed)).to(x_0.device)
    t = process.at_share((torch.arange(len(x_0), device=x_0.device) + 0.5) / len(x_0))
    t = t.clamp(0).long() if isinstance(process, CosineSteps) else t
    with torch.enable_grad():
        parameters = {name: p.requires_grad_() for name, p in network.named_parameters()}
        [errors] = output_errors(denoiser, network, Batch([x_0], [eps], [t], labels.to(x_0.device)))
        gradients = torch.autograd.grad(errors.mean(), list(parameters.values()), allow_unused=True)
    squares = {}
    for name, gradient in zip(parameters, gradients):
        layer = ".".join(name.split(".")[:2]).removesuffix(".weight").removesuffix(".bias")
        squares[layer] = squares.get(layer, 0.0) + (0.0 if gradient is None else float(gradient.square().sum()))
    total = sum(squares.values()) or 1.0
    return {layer: (square / total) ** 0.5 for layer, square in squares.items()}


def measured_lines(distances: torch.Tensor, effects: dict, gradients: dict) -> list[str]:
    """What was measured, by the functions above, in lines."""
    between = distances[~torch.eye(len(distances), dtype=torch.bool)]
    return [f"codes of the classes: distances {between.min():.3g} ... {between.max():.3g} lengths of a code",
            *(f"time {t:g}: the class moves the prediction by {effect:.3g} of its size"
              for t, effect in effects.items()),
            *(f"gradient of {layer}: {norm:.3g} of the whole"
              for layer, norm in sorted(gradients.items(), key=lambda item: item[1]))]


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
