"""Jacobian-vector products of a network: many tangents that share one primal pass.

torch.func.jvp takes the primal along with every tangent and breaks normalisation and attention into many small
passes over memory. Here a value carries its tangents, [P, B, ...] beside [B, ...], through the network's own code by
`__torch_function__`: linear operations treat the tangents as a larger batch, group normalisation, SiLU and attention
have their derivative written out, and any other operation is left to torch.func.jvp. No architecture is repeated
here, and the result equals torch.func.jvp's up to rounding.
"""
import torch
import torch.nn.functional as F


class Dual:
    """A value and its derivatives along P directions; takes the place of a tensor in a network's forward pass."""

    def __init__(self, primal: torch.Tensor, tangents: torch.Tensor, factor: torch.Tensor | None = None):
        self.primal = primal                # [B, ...]
        self.unscaled = tangents            # [P, B, ...], to be multiplied by `factor` [B or 1, ...] where there is one
        self.factor = factor

    @property
    def tangents(self) -> torch.Tensor:
        """Derivatives [P, B, ...]. A factor is applied when first needed, so that two in a row cost one pass."""
        if self.factor is not None:
            self.unscaled, self.factor = self.unscaled * self.factor, None
        return self.unscaled

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        rule = RULES.get(function, propagate_any)
        return rule(function, args, kwargs or {})

    def __getattr__(self, name):
        attribute = getattr(torch.Tensor, name)             # AttributeError where a tensor has none either
        if not callable(attribute):
            return getattr(self.primal, name)               # shape, dtype, device, ndim
        return lambda *args, **kwargs: self.__torch_function__(attribute, (), (self, *args), kwargs)

    def __add__(self, other):
        return self.__torch_function__(torch.Tensor.add, (), (self, other))

    def __sub__(self, other):
        return self.__torch_function__(torch.Tensor.sub, (), (self, other))

    def __rsub__(self, other):
        return self.__torch_function__(torch.rsub, (), (self, other))

    def __mul__(self, other):
        return self.__torch_function__(torch.Tensor.mul, (), (self, other))

    def __truediv__(self, other):
        return self.__torch_function__(torch.Tensor.div, (), (self, other))

    def __neg__(self):
        return self.__torch_function__(torch.Tensor.neg, (), (self,))

    def __getitem__(self, index):
        return self.__torch_function__(torch.Tensor.__getitem__, (), (self, index))

    def __pow__(self, exponent):
        return self.__torch_function__(torch.Tensor.pow, (), (self, exponent))

    def __len__(self):
        return len(self.primal)

    __radd__ = __add__
    __rmul__ = __mul__


def map_duals(args, kwargs, take):
    """Replace every Dual in a call's arguments, also inside lists and tuples, by take(dual)."""
    def walk(value):
        if isinstance(value, Dual):
            return take(value)
        if isinstance(value, (list, tuple)):
            return type(value)(map(walk, value)) if type(value) in (list, tuple) else value
        return value
    return [walk(value) for value in args], {key: walk(value) for key, value in kwargs.items()}


def pair_up(primals, tangents):
    """Join an operation's outputs and their tangents: a tensor, or a list or tuple of them."""
    if isinstance(primals, torch.Tensor):
        return Dual(primals, tangents)
    return type(primals)(pair_up(primal, tangent) for primal, tangent in zip(primals, tangents))


def open_call(function, args, kwargs):
    """(the Duals among a call's arguments, the call as a function of what stands in their places)."""
    duals = []
    map_duals(args, kwargs, duals.append)

    def call(*values):
        values = iter(values)
        plain_args, plain_kwargs = map_duals(args, kwargs, lambda dual: next(values))
        return function(*plain_args, **plain_kwargs)

    return duals, call


def propagate_any(function, args, kwargs):
    """Any differentiable operation: its derivative by torch.func.jvp, all tangents at once."""
    duals, call = open_call(function, args, kwargs)
    primals = tuple(dual.primal for dual in duals)
    if all(primal.is_floating_point() for primal in primals):
        tangents = torch.func.vmap(lambda *directions: torch.func.jvp(call, primals, directions)[1])(
            *(dual.tangents for dual in duals))
        return pair_up(call(*primals), tangents)
    return call(*primals)


def propagate_linear(function, args, kwargs):
    """Linear in all its Duals taken together, and without a constant part: the same operation on the tangents."""
    duals, call = open_call(function, args, kwargs)
    return pair_up(call(*(dual.primal for dual in duals)),
                   torch.func.vmap(call)(*(dual.tangents for dual in duals)))


def propagate_cat(function, args, kwargs):
    """Linear where all parts carry tangents; a part that does not has zeros there."""
    parts = args[0]
    if all(isinstance(part, Dual) for part in parts):
        return propagate_linear(function, args, kwargs)
    return propagate_any(function, args, kwargs)


def propagate_sum(function, args, kwargs):
    """a + b and a - b. A term without tangents leaves the other's tangents as they are, if it keeps their shape."""
    a, b = args[:2]
    if isinstance(a, Dual) and isinstance(b, Dual):
        return propagate_linear(function, args, kwargs)
    if isinstance(a, Dual) and not kwargs:
        primal = function(a.primal, b)
        if primal.shape == a.primal.shape:
            return Dual(primal, a.tangents)
    return propagate_any(function, args, kwargs)


def propagate_scaling(function, args, kwargs):
    """a * b and a / b with b constant: the tangents are scaled alike, where b does not enlarge a."""
    a, b = args[:2]
    if isinstance(a, Dual) and not isinstance(b, Dual) and not kwargs:
        primal = function(a.primal, b)
        if primal.shape == a.primal.shape:
            return Dual(primal, function(a.tangents, b))
    return propagate_any(function, args, kwargs)


def propagate_affine(function, args, kwargs):
    """Convolutions and linear layers, called as (input, weight, bias, ...): the bias has no derivative."""
    x, weight, *rest = args
    if not isinstance(x, Dual) or isinstance(weight, Dual):
        return propagate_any(function, args, kwargs)
    primal = function(x.primal, weight, *rest, **kwargs)
    without_bias = {key: None if key == "bias" else value for key, value in kwargs.items()}
    tangents = function(x.tangents.flatten(0, 1), weight, *[None][:len(rest)], *rest[1:], **without_bias)
    return Dual(primal, tangents.unflatten(0, x.tangents.shape[:2]))


def propagate_group_norm(function, args, kwargs):
    """y = w n + b, n = (x - mean) / std per group: dn = (dx - mean(dx) - n mean(n dx)) / std.

    This map from dx to dn is symmetric, so the kernel of its backward pass computes it too, in one pass.
    """
    def unpack(x, num_groups, weight=None, bias=None, eps=1e-5):
        return x, num_groups, weight, bias, eps
    x, num_groups, weight, bias, eps = unpack(*args, **kwargs)
    if not isinstance(x, Dual) or x.primal.ndim != 4 or isinstance(weight, Dual) or isinstance(bias, Dual):
        return propagate_any(function, args, kwargs)
    primal, tangents = x.primal.contiguous(), x.tangents.flatten(0, 1).contiguous()
    num_directions, num_images = x.tangents.shape[:2]
    num_channels, num_pixels = primal.shape[1], primal.shape[2:].numel()
    _, mean, inverse_std = torch.native_group_norm(
        primal, None, None, num_images, num_channels, num_pixels, num_groups, eps)      # mean: [B, groups]
    derivative = torch.ops.aten.native_group_norm_backward(
        tangents, primal.repeat(num_directions, 1, 1, 1), mean.repeat(num_directions, 1),
        inverse_std.repeat(num_directions, 1), None, len(tangents), num_channels, num_pixels, num_groups,
        [True, False, False])[0].unflatten(0, (num_directions, num_images))             # [P, B, C, H, W]
    return Dual(function(primal, num_groups, weight, bias, eps), derivative,
                None if weight is None else weight[:, None, None])


def propagate_silu(function, args, kwargs):
    """y = x s(x), s the logistic function: dy = s (1 + x (1 - s)) dx."""
    x = args[0]
    gate = torch.sigmoid(x.primal)
    slope = torch.addcmul(gate, x.primal * gate, 1 - gate)
    factor = slope if x.factor is None else slope * x.factor
    return Dual(F.silu(x.primal), x.unscaled, factor)


def propagate_attention(function, args, kwargs):
    """Scaled dot-product attention A V, A = softmax(Q K^T / sqrt(d)): dA = A (dS - sum(A dS)), S the scores."""
    if len(args) != 3 or kwargs or not all(isinstance(value, Dual) for value in args):
        return propagate_any(function, args, kwargs)
    q, k, v = args
    scale = q.primal.shape[-1] ** -0.5
    keys = k.primal.transpose(-1, -2)                                           # [B, heads, d, N]
    attention = torch.softmax((q.primal @ keys) * scale, dim=-1).to(v.primal.dtype)
    scores = (q.tangents @ keys + q.primal @ k.tangents.transpose(-1, -2)) * scale          # [P, B, heads, N, N]
    weighted = attention * scores
    out = attention @ v.primal                                                  # [B, heads, N, d]
    tangents = weighted @ v.primal - weighted.sum(-1, keepdim=True) * out + attention @ v.tangents
    return Dual(out, tangents)


Tensor = torch.Tensor
RULES = {
    **dict.fromkeys((torch.conv2d, F.conv2d, F.conv_transpose2d, F.linear), propagate_affine),
    **dict.fromkeys((F.avg_pool2d, F.interpolate, torch.chunk, Tensor.chunk, Tensor.reshape,
                     Tensor.transpose, Tensor.permute, Tensor.unbind, Tensor.float, Tensor.to, Tensor.flatten,
                     Tensor.unflatten, Tensor.neg, Tensor.contiguous), propagate_linear),
    **dict.fromkeys((Tensor.add, Tensor.sub, Tensor.__add__, Tensor.__radd__, Tensor.__sub__, torch.add, torch.sub),
                    propagate_sum),
    **dict.fromkeys((Tensor.mul, Tensor.div), propagate_scaling),
    torch.cat: propagate_cat,
    F.group_norm: propagate_group_norm,
    F.silu: propagate_silu,
    F.scaled_dot_product_attention: propagate_attention,
}


def propagate(function, primals, tangents):
    """function(*primals) and its derivatives along P directions.

    primals: tensors [B, ...]; tangents: for each of them [P, B, ...], or None where it does not move. Returns the
    outputs, a tensor or a tuple [B, ...], and their tangents alike [P, B, ...]; None for one that does not move.
    """
    outputs = function(*(primal if tangent is None else Dual(primal, tangent)
                         for primal, tangent in zip(primals, tangents)))

    def split(value):
        if isinstance(value, (tuple, list)):
            pairs = [split(item) for item in value]
            return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        return (value.primal, value.tangents) if isinstance(value, Dual) else (value, None)

    return split(outputs)
