"""The losses of distribution matching distillation, on clean images (Yin et al. 2024: DMD and DMD2).

Nothing here draws a random number or calls a frozen network: callers hand in predictions made without gradient.
"""
import torch
import torch.nn.functional as F

from scheduler import per_image


def matching_gradient(x: torch.Tensor, x_0_fake: torch.Tensor, x_0_real: torch.Tensor) -> torch.Tensor:
    """The direction that the student's images should move against: (x_0_fake - x_0_real) / mean |x - x_0_real| (DMD,
    eq. 7 and 8).

    x: the student's images [B, ...]; x_0_fake, x_0_real: the clean images that critic and teacher predict from noised
    x. The mean is over all values of an image. Returns float32 [B, ...], without gradient.
    """
    x, x_0_fake, x_0_real = (images.detach().float() for images in (x, x_0_fake, x_0_real))
    return (x_0_fake - x_0_real) / per_image((x - x_0_real).abs().flatten(1).mean(1), x)


def matching_loss(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A scalar whose derivative in x is `gradient` over the number of values: half the mean of (x - sg(x - g))^2."""
    return 0.5 * F.mse_loss(x.float(), (x.float() - gradient).detach())


def denoising_loss(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The critic's squared error: mean of weight (output - target)^2. output, target: [B, ...]; weight: [B] or None."""
    squared = (output.float() - target.float()).square()
    return (squared if weight is None else per_image(weight, squared) * squared).mean()


def edm_weight(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """The published critic's weight of a clean image's squared error at noise levels sigma > 0, in the shape of sigma:
    sigma^-2 + sigma_data^-2 (Karras et al. 2022)."""
    return sigma**-2 + sigma_data**-2


def gan_student_loss(logits_fake: torch.Tensor) -> torch.Tensor:
    """The non-saturating loss of the student: mean softplus(-logit), a scalar (Goodfellow et al. 2014)."""
    return F.softplus(-logits_fake.float()).mean()


def gan_critic_loss(logits_fake: torch.Tensor, logits_real: torch.Tensor) -> torch.Tensor:
    """The critic's loss, a scalar: mean softplus(logit of fake) + mean softplus(-logit of real). High means real."""
    return F.softplus(logits_fake.float()).mean() + F.softplus(-logits_real.float()).mean()
