"""The error map as the plain loop over cells and probes measures it."""
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lift.error_map import Draws
from scheduler import CosineSteps


@torch.no_grad()
def plain_loop(model, images, timesteps, cells, K: int, batch_size: int, seed: int, device) -> np.ndarray:
    """||J r||^2 of the blocks 64<-64 and 32<-32 of the noise prediction, mean over K: [2, cells, images]."""
    schedule = CosineSteps()
    draws = Draws(images, range(batch_size), K, seed, device)
    norms = np.zeros((2, len(cells), batch_size))
    for c, (i, j) in enumerate(cells):
        t_64, t_32 = (torch.full((batch_size,), int(timesteps[k]), device=device) for k in (i, j))
        x_64 = schedule.add_noise(draws.x_0_64, draws.noise_64, t_64)
        x_32 = schedule.add_noise(draws.x_0_32, draws.noise_32, t_32)
        for k in range(K):
            with sdpa_kernel(SDPBackend.MATH):
                _, (product_64, _) = torch.func.jvp(lambda x: model(x, x_32, t_64, t_32), (x_64,),
                                                    (draws.probes_64[k].float(),))
                _, (_, product_32) = torch.func.jvp(lambda x: model(x_64, x, t_64, t_32)[:2], (x_32,),
                                                    (draws.probes_32[k].float(),))
            for s, product in enumerate((product_64, product_32)):
                norms[s, c] += product.square().sum((1, 2, 3)).cpu().numpy() / K
    return norms


def squared_standard_error(norms: np.ndarray) -> np.ndarray:
    """Of the mean over images: [2, cells] for norms [2, cells, images]."""
    return norms.var(-1, ddof=1) / norms.shape[-1]
