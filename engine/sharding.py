"""Networks spread over processes by FSDP2, and their whole tensors again, so that states have one format.

An optimizer's state is kept as torch's own optimizers write it, by the number of the parameter.
"""
import contextlib

import torch
from torch import nn

from engine.optimization import ExponentialMovingAverage


def shard(network: nn.Module, device: torch.device) -> None:
    """Spread parameters, gradients and optimizer state over all processes: blocks first, then the root.

    A network's method `blocks_to_shard()` names the modules that are gathered one after the other. A network without it
    is gathered at once.
    """
    blocks = network.blocks_to_shard() if hasattr(network, "blocks_to_shard") else []
    shard_each([*blocks, network], device)


def shard_each(modules: list[nn.Module], device: torch.device, kept_whole=()) -> None:
    """Spread the modules, inner ones first (fully_shard). Each is gathered for its own calls alone, which all processes
    make alike. kept_whole: parameters that are left as they are."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for p in {p for module in modules for p in module.parameters()}:
        p.data = p.data.contiguous()            # fully_shard takes no weights in channels-last
    # Whether a gathered parameter needs a gradient is fixed when it is gathered. In another network's update it needs
    # none. So nothing may stay gathered after a forward pass, as the root's parameters would by default.
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(kept_whole))


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return any(hasattr(p, "full_tensor") for p in network.parameters())


def whole(value: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be spread over processes, on the CPU. Called by all of them."""
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu()


def full_model(network: nn.Module) -> dict:
    """The state dict in whole tensors."""
    if not is_sharded(network):
        return network.state_dict()
    return {name: whole(value) for name, value in network.state_dict().items()}


def full_average(average: ExponentialMovingAverage) -> dict:
    """`shadow` and `decay` in whole tensors."""
    shadow = {name: whole(value).contiguous() for name, value in average.shadow.items()}
    return {"shadow": shadow, "decay": average.decay}


@contextlib.contextmanager
def exchanged(network: nn.Module, average: ExponentialMovingAverage):
    """Context in which a network has its averaged weights, and the average has the network's own. Each process
    exchanges its own part, one tensor after the other, so that no second copy is held."""
    def exchange() -> None:
        with torch.no_grad():
            for name, p in network.named_parameters():
                own = p.detach().clone()
                p.copy_(average.shadow[name])
                average.shadow[name].copy_(own)

    exchange()
    try:
        yield
    finally:
        exchange()


def full_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """The optimizer's state dict in whole tensors."""
    state = optimizer.state_dict()
    if not is_sharded(network):
        return state
    return {**state, "state": {number: {key: whole(value) if torch.is_tensor(value) else value
                                        for key, value in moments.items()}
                               for number, moments in state["state"].items()}}


def like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole tensor laid out, and spread, as a parameter is."""
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def load_model(network: nn.Module, state: dict) -> None:
    """Whole tensors into a network, spread or not."""
    if not is_sharded(network):
        network.load_state_dict(state)
        return
    own = network.state_dict()
    network.load_state_dict({name: like(own[name], value) for name, value in state.items()})


def load_average(average: ExponentialMovingAverage, state: dict) -> None:
    """Whole tensors into an average, spread or not."""
    with torch.no_grad():
        for name, value in state["shadow"].items():
            average.shadow[name].copy_(like(average.shadow[name], value))


def load_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Whole tensors into an optimizer, laid out as its parameters are, which the fused kernels take for granted."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    spread = {number: {key: like(parameters[number], value)
                       if torch.is_tensor(value) and value.shape == parameters[number].shape else value
                       for key, value in moments.items()} for number, moments in state["state"].items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": spread, "param_groups": [{**own, **saved, "params": own["params"]}
                                                                 for own, saved in zip(groups, state["param_groups"])]})
