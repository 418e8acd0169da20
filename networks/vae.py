"""A variational autoencoder of small images (Kingma and Welling 2014), made of the UNet's blocks, and its loss."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import InputError
from networks.conditional_unet import num_heads
from networks.unet import NUM_GROUPS, AttentionBlock, GroupNorm, ResidualBlock, run_blocks

LOG_VARIANCE_RANGE = (-30.0, 20.0)


def mean_and_log_variance(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's output [B, 2 C, h, w] as mean and log variance [B, C, h, w]; the log variance is clipped."""
    mean, log_variance = parameters.chunk(2, dim=1)
    return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def reparametrised(mean: torch.Tensor, log_variance: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """A sample of the posterior that gradients pass: mean + exp(log variance / 2) eps; all [B, C, h, w]."""
    return mean + (0.5 * log_variance).exp() * eps


def kl_per_image(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the posterior from N(0, I), summed over the latent: [B, C, h, w] -> [B], nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


def vae_loss(x: torch.Tensor, reconstruction: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor,
             kl_weight: float) -> dict[str, torch.Tensor]:
    """Scalars: reconstruction (squared error, mean over all pixels), kl (sum over the latent, mean over the batch),
    loss = reconstruction + kl_weight kl."""
    error, kl = F.mse_loss(reconstruction, x), kl_per_image(mean, log_variance).mean()
    return {"loss": error + kl_weight * kl, "reconstruction": error, "kl": kl}


def latent_scale(latents: torch.Tensor) -> float:
    """1 / standard deviation over all entries of latents [N, C, H, W]. Multiplied with it they have variance 1; their
    mean is not removed."""
    return float(1 / latents.std())


class VAE(nn.Module):
    """Encoder and decoder: an image [C, H, W] and a latent [latent_channels, H / 2^n, W / 2^n], n the number of levels.

    Every level is one residual block and a halving; in the middle are two blocks with attention between them.
    patch_size: as in `networks.conditional_unet`; it makes the latent smaller too. The buffer `scale` is the factor of
    the latents that a diffusion model sees (`latent_scale`); it is 1 until it is set.
    """

    def __init__(self, shape, base_channels: int = 64, channel_multipliers=(1, 2, 4), latent_channels: int = 2,
                 patch_size: int = 1):
        super().__init__()
        halvings, factor = len(channel_multipliers), patch_size * 2 ** len(channel_multipliers)
        if base_channels < 1 or base_channels % NUM_GROUPS:
            raise InputError(f"--base_channels: found {base_channels}, expected a multiple of {NUM_GROUPS}")
        if not halvings or any(side % factor for side in shape[1:]):
            raise InputError(f"--channel_multipliers: found {halvings} levels with --patch_size {patch_size}, expected "
                             f"at least one and a height and width divisible by {factor}; found {shape[1]}x{shape[2]}")
        self.settings = {"shape": list(shape), "base_channels": base_channels,
                         "channel_multipliers": list(channel_multipliers), "latent_channels": latent_channels,
                         "patch_size": patch_size}
        self.patch_size, self.latent_shape = patch_size, (latent_channels, *(side // factor for side in shape[1:]))
        widths = [base_channels * factor for factor in channel_multipliers]
        first, last = widths[0], widths[-1]
        image_channels = shape[0] * patch_size**2
        down, up = [nn.Conv2d(image_channels, first, 3, padding=1)], []
        for c_in, c_out in zip([first] + widths[:-1], widths):
            down += [ResidualBlock(c_in, c_out, None), nn.Conv2d(c_out, c_out, 4, stride=2, padding=1)]
            up = [nn.ConvTranspose2d(c_out, c_out, 4, stride=2, padding=1), ResidualBlock(c_out, c_in, None)] + up

        def middle():
            return [ResidualBlock(last, last, None), AttentionBlock(last, num_heads(last)),
                    ResidualBlock(last, last, None)]

        def out(channels_in, channels_out):
            return [GroupNorm(channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1)]

        self.encoder = nn.ModuleList([*down, *middle(), *out(last, 2 * latent_channels)])
        self.decoder = nn.ModuleList([nn.Conv2d(latent_channels, last, 3, padding=1), *middle(), *up,
                                      *out(first, image_channels)])
        self.register_buffer("scale", torch.ones(()))

    def parameters_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the latent of images x [B, C, H, W] in [-1, 1], in float32."""
        return mean_and_log_variance(self.run(self.encoder, F.pixel_unshuffle(x, self.patch_size)).float())

    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W], about -1...1, of unscaled latents [B, latent_channels, h, w]."""
        return F.pixel_shuffle(self.run(self.decoder, z), self.patch_size).float()

    def forward(self, x: torch.Tensor, eps: torch.Tensor):
        """Reconstruction, mean and log variance of images x [B, C, S, S], from the posterior sample that eps picks."""
        mean, log_variance = self.parameters_of(x)
        return self.decoded(reparametrised(mean, log_variance, eps)), mean, log_variance

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled latents, the posterior's mean: [B, C, H, W] in [-1, 1] -> [B, latent_channels, h, w], variance 1."""
        return self.parameters_of(x)[0] * self.scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] of scaled latents [B, latent_channels, h, w]; the inverse of `encode`, as far as the
        autoencoder reconstructs."""
        return self.decoded(latents / self.scale)

    @staticmethod
    def run(layers, h: torch.Tensor) -> torch.Tensor:
        """Apply blocks and plain layers in turn."""
        for layer in layers:
            h = run_blocks([layer], h, None) if isinstance(layer, ResidualBlock) else layer(h)
        return h
