"""LIFT: one UNet that denoises an image at 64x64 and its half-size copy at 32x32, each with a timestep of its own; and
its kin that splits one image into two bands instead."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.sampling import to_device
from networks.bands import joined, split
from networks.presets import DEFAULT_HIDDEN_DIMS
from networks.scales import downsample_to_32, upsample_to_64
from networks.unet import UNet, time_layers
from scheduler import NUM_TIMESTEPS, predict_eps, predict_x_0


class LIFTDualTimestepModel(UNet):
    """Predicts the noise at both scales. 58,475,206 parameters at the default hidden dims.

    native_32: whether the 32 scale enters and leaves the network at its 32x32 level. Otherwise, as published, it is
    upsampled, passes the 64x64 level beside the other scale, and is downsampled. skip_64_at_noise: with native_32,
    images at the noisiest t_64 do not pass the 64x64 level; what is told of their 64 scale is the 32 prediction,
    upsampled.
    """

    model_type = "lift"

    def __init__(self, hidden_dims=DEFAULT_HIDDEN_DIMS, parametrization: str = "eps", native_32: bool = False,
                 skip_64_at_noise: bool = False):
        at_64 = 3 if native_32 else 6
        super().__init__(in_channels=at_64, out_channels=at_64, hidden_dims=hidden_dims,
                         parametrization=parametrization)
        self.native_32, self.skip_64_at_noise = native_32, skip_64_at_noise and native_32
        first = self.hidden_dims[0]
        time_width = 4 * first
        self.time_combine = nn.Sequential(nn.Linear(2 * time_width, time_width), nn.SiLU(),
                                          nn.Linear(time_width, time_width))
        if native_32:
            self.init_conv_32 = nn.Conv2d(3, first, 3, padding=1)
            self.final_conv_32 = self.output_layers(self.channels_at_32, 3)

    def forward(self, x_64: torch.Tensor, x_32: torch.Tensor, t_64: torch.Tensor, t_32: torch.Tensor, at_noise=None):
        """Noise at both scales.

        x_64: [B, 3, 64, 64] and x_32: [B, 3, 32, 32], noised images; t_64, t_32: [B], timesteps 0...999, free of
        each other. at_noise: which images are at the noisiest t_64, a tuple of B bools, or True or False of all; left
        out, t_64 tells, which a model that skips waits for. Returns eps_64 [B, 3, 64, 64] and eps_32 [B, 3, 32, 32].
        """
        inputs = (x_64, x_32, t_64, t_32)
        if not self.skip_64_at_noise or at_noise is False:
            return self.at_both_scales(*inputs)
        if at_noise is True:
            return self.at_32_alone(*inputs)
        at_noise = (t_64 >= NUM_TIMESTEPS - 1).cpu() if at_noise is None else torch.tensor(at_noise)
        if at_noise.all():
            return self.at_32_alone(*inputs)
        if not at_noise.any():
            return self.at_both_scales(*inputs)
        chosen = [to_device(which.nonzero()[:, 0], x_64.device) for which in (~at_noise, at_noise)]
        parts = (call(*(value[indices] for value in inputs)) for call, indices in
                 zip((self.at_both_scales, self.at_32_alone), chosen))
        order = torch.cat(chosen).argsort()
        return tuple(torch.cat([a, b.to(a.dtype)])[order] for a, b in zip(*parts))

    def at_32_alone(self, x_64, x_32, t_64, t_32):
        """As in `forward`, without the 64x64 level, for images whose 64 scale is noise. eps_64 is what the upsampled 32
        prediction leaves of x_64, and carries no gradient."""
        time_embedding = self.time_combine(torch.cat([self.time_mlp(t_64), self.time_mlp(t_32)], dim=1))
        features_32 = self.run_below(self.init_conv_32(x_32), F.silu(time_embedding))
        output_32 = self.final_conv_32(features_32)
        # Of a residual output both scales' noises follow from one estimate; that of the 64 scale is not used.
        eps_32 = self.to_noises([torch.zeros_like(x_64), output_32], [x_64, x_32], [t_64, t_32])[1]
        levels = [self.schedule.alpha_cumprod_at(t).to(torch.float32) for t in (t_64, t_32)]
        x_0_64 = upsample_to_64(predict_x_0(x_32.float(), eps_32.float(), levels[1]).detach())
        return predict_eps(x_64.float(), x_0_64, levels[0]).to(eps_32.dtype), eps_32

    def at_both_scales(self, x_64, x_32, t_64, t_32):
        """As in `forward`, with all levels."""
        both_times = torch.cat([self.time_mlp(t_64), self.time_mlp(t_32)], dim=1)      # [B, 2 * time_width]
        time_embedding = self.time_combine(both_times)
        if self.native_32:
            output_64, features_32 = self.run_backbone(x_64, time_embedding, self.init_conv_32(x_32))
            output_32 = self.final_conv_32(features_32)                                 # [B, 3, 32, 32]
        else:
            output, _ = self.run_backbone(torch.cat([x_64, upsample_to_64(x_32)], dim=1), time_embedding)
            output_64, output_32_large = output.chunk(2, dim=1)                         # each [B, 3, 64, 64]
            output_32 = downsample_to_32(output_32_large)
        return tuple(self.to_noises([output_64, output_32], [x_64, x_32], [t_64, t_32]))


class LIFTBandModel(UNet):
    """Predicts the noise in both parts of one 64x64 image: its 2x2 mean, and the rest (`networks.bands`).

    Called as LIFT is, with the fine part in the place of x_64 and the coarse one's coordinates in that of x_32. It is
    the baseline but for one embedding more, of which only the difference between the two timesteps counts: at equal
    timesteps it is the baseline, weight for weight.
    """

    model_type = "lift"
    has_bands = True

    def __init__(self, hidden_dims=DEFAULT_HIDDEN_DIMS, parametrization: str = "eps"):
        super().__init__(in_channels=3, out_channels=3, hidden_dims=hidden_dims, parametrization=parametrization)
        self.lead_mlp = time_layers(self.hidden_dims[0], last_bias=False)

    def forward(self, x_64: torch.Tensor, x_32: torch.Tensor, t_64: torch.Tensor, t_32: torch.Tensor):
        """Noise in both parts.

        x_64: [B, 3, 64, 64], whose coarse part is not looked at; x_32: [B, 3, 32, 32]; t_64, t_32: [B], timesteps
        0...999, free of each other. Returns eps_64 [B, 3, 64, 64], without a coarse part, and eps_32 [B, 3, 32, 32].
        """
        x = joined(x_64, x_32)
        output, _ = self.run_backbone(x, self.time_mlp(t_64) + (self.lead_mlp(t_32) - self.lead_mlp(t_64)))
        if self.parametrization != "residual":
            return tuple(self.to_noises(split(output), split(x), [t_64, t_32]))
        abars = [self.schedule.alpha_cumprod_at(t) for t in (t_64, t_32)]
        clean = split(self.linear_denoiser.clean_of_bands(output, x, *abars))
        dtype = torch.promote_types(x.dtype, torch.float32)
        return tuple(predict_eps(part, x_0, abar).to(dtype) for part, x_0, abar in zip(split(x.double()), clean, abars))
