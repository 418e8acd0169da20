"""Super-resolution from 32x32 to 64x64: LIFT as it is, bicubic upsampling, and the scores of both."""
import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from engine.sampling import from_uint8, to_uint8
from lift import sampling
from networks.scales import downsample_to_32


def held_clean_path(num_steps: int) -> np.ndarray:
    """t_64 evenly from 999 to 0 while t_32 stays at 0, a clean image: int64 [num_steps + 1, 2]."""
    path = sampling.uniform_diagonal(num_steps)
    path[:, 1] = 0
    return path


def half_size(images: np.ndarray) -> np.ndarray:
    """2x2 mean of uint8 [N, 3, 64, 64], rounded -> uint8 [N, 3, 32, 32]."""
    return to_uint8(downsample_to_32(from_uint8(torch.from_numpy(np.array(images))))).numpy()


def bicubic_double_size(images: np.ndarray) -> np.ndarray:
    """Pillow's bicubic upsampling: uint8 [N, 3, H, W] -> uint8 [N, 3, 2H, 2W]."""
    N, _, H, W = images.shape
    large = [np.asarray(Image.fromarray(np.moveaxis(image, 0, -1)).resize((2 * W, 2 * H), Image.Resampling.BICUBIC))
             for image in images]
    return np.moveaxis(np.stack(large), -1, 1)


def super_resolve(model, images_32: np.ndarray, num_steps: int, seed: int, indices, **options) -> np.ndarray:
    """LIFT as it is, with x_32 held at given clean images while x_64 is denoised from noise.

    images_32: uint8 [B, 3, 32, 32]; indices: their numbers, which fix the start noise; options: those of
    sampling.generate. Returns uint8 [B, 3, 64, 64].
    """
    x_32 = from_uint8(torch.from_numpy(np.array(images_32)))
    samples = sampling.generate(model, held_clean_path(num_steps), seed, indices, x_32_start=x_32, **options)
    return to_uint8(samples.x_64).cpu().numpy()


def psnr(truth: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, peak 255, over all pixels and channels: uint8 [N, 3, H, W] twice -> [N]."""
    with np.errstate(divide="ignore"):                          # equal images: infinite
        return np.array([peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(truth, images)])


def ssim(truth: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5), mean over channels -> [N]."""
    return np.array([structural_similarity(a, b, data_range=255, channel_axis=0, gaussian_weights=True, sigma=1.5,
                                           use_sample_covariance=False) for a, b in zip(truth, images)])
