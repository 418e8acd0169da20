"""Low-rank adapters (Hu et al. 2022) by peft: one frozen UNet serves teacher, student and critic.

The UNet has peft's adapter layers, whose own weights add nothing. A student's and a critic's adapter are put in place
of these for the length of a call, so that no adapter is ever switched on or off between two calls of one loss.
"""
import torch
from torch import nn

# The matrix products and convolutions of attention and residual blocks.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
           "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")
ADAPTER = "default"


def is_target(module: str) -> bool:
    """Whether a module of that name has an adapter."""
    return any(module == target or module.endswith(f".{target}") for target in TARGETS)


def add_adapter_layers(unet, rank: int, alpha: float):
    """Put peft's adapter layers into a UNet, in place: W becomes W + alpha / rank B A, with B = 0.

    Returns peft's tuner, which can merge them into W (`merge_and_unload`).
    """
    import peft
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGETS), lora_dropout=0.0)
    return peft.LoraModel(unet, config, ADAPTER)


def adapter_of(unet) -> dict[str, torch.Tensor]:
    """The adapter's weights by name, as the UNet's own."""
    return {name: p for name, p in unet.named_parameters() if ".lora_" in name}


def merge_adapter(network, state: dict, rank: int, alpha: float) -> None:
    """Add a student's adapter to the weights of its teacher's UNet, in place. state: of an `AdaptedNetwork`."""
    tuner = add_adapter_layers(network.unet, rank, alpha)
    with torch.no_grad():
        for name, p in adapter_of(network).items():
            p.copy_(state[f"adapter.{name.replace('.', '/')}"])
    network.unet = tuner.merge_and_unload().requires_grad_(False)


class AdaptedNetwork(nn.Module):
    """A network with an adapter of its own, called like it. Its parameters are the adapter's alone.

    network: a frozen ConditionedUNet with adapter layers. Several AdaptedNetworks share it; their states leave it out.
    """

    def __init__(self, network):
        super().__init__()
        self.shared = (network,)                        # in a tuple, so that it is no part of this module
        self.adapter = nn.ParameterDict({name.replace(".", "/"): nn.Parameter(p.detach().clone())
                                         for name, p in adapter_of(network).items()})

    def forward(self, *inputs) -> torch.Tensor:
        """As the network's."""
        weights = {name.replace("/", "."): p for name, p in self.adapter.items()}
        return torch.func.functional_call(self.shared[0], weights, inputs)

    def __deepcopy__(self, memo) -> "AdaptedNetwork":
        """Another adapter with the same weights on the same shared network."""
        other = AdaptedNetwork(self.shared[0])
        other.load_state_dict(self.state_dict())
        return other

    def get_submodule(self, target: str) -> nn.Module:
        """The shared network's module of that name, for hooks; else this module's own."""
        return self.shared[0].get_submodule(target) if target.startswith("unet.") else super().get_submodule(target)

    def critic_parts(self) -> dict:
        """As the network's."""
        return self.shared[0].critic_parts()
