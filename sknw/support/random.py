"""Draws of torch from generators of our own: nobody else's draws are moved, in no thread.

Layers and modules draw from torch's global generator, most of them without a way to pass another.
Setting it and putting it back, as `torch.random.fork_rng` does, is seen by every other thread. A
dispatch mode belongs to one thread and sees each operation before it draws: it hands the
operation a generator of its own.
"""

from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Draws:
    """What a mode does with the operations that draw.

    It is not in the mode itself, because torch wraps a mode's own method so that its compiler
    leaves it out, and that wrapper imports the compiler, for two seconds, at the first operation.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Do the operation, with our generator if it draws."""
        kwargs = kwargs or {}
        if not _draws(func):
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        seeded = _taking_generator(func)
        if seeded is not None and device.type != "meta":
            return self._draw(seeded, device, args, kwargs)
        if func is torch.ops.aten.native_dropout.default:
            return self._dropout(*args)
        with self:  # an operation made of others, each of which is dispatched here in turn
            result = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result

    def _draw(self, func, device: torch.device, args: tuple, kwargs: dict):
        """Do an operation that takes a generator; one that the caller chose is left."""
        position = _position_of_generator(func)
        if position is not None and position < len(args):
            own = args[position] or self._generator(device)
            return func(*args[:position], own, *args[position + 1 :], **kwargs)
        return func(
            *args, **{**kwargs, "generator": kwargs.get("generator") or self._generator(device)}
        )

    def _dropout(self, values: torch.Tensor, p: float, train: bool | None):
        """Return what `native_dropout` does: the values kept, scaled up, and which they are."""
        if train is False or p == 0:
            return values.clone(), torch.ones_like(values, dtype=torch.bool)
        mask = torch.empty_like(values, dtype=torch.bool)
        mask.bernoulli_(1 - p, generator=self._generator(values.device))
        return values * mask * (0.0 if p == 1 else 1 / (1 - p)), mask

    def _generator(self, device: torch.device) -> torch.Generator:
        """Return the generator of a device, made when it is first needed."""
        if str(device) not in self._generators:
            self._generators[str(device)] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[str(device)]


class OwnDraws(_Draws, TorchDispatchMode):
    """A context in which torch draws from generators of this object.

    Covers dropout, initialisation and every other operation that can be given a generator, however
    deep inside a module. Fused operations of CUDA that cannot (attention and recurrent layers with
    dropout) still draw from the global one.

    Parameters
    ----------
    seed : int
        Entering the context again goes on with the same draws; a new object begins anew.
    """


class NoDraws(OwnDraws):
    """A context in which tensors filled at random stay as they are: loading overwrites them."""

    def __init__(self):
        super().__init__(0)

    def _draw(self, func, device: torch.device, args: tuple, kwargs: dict):
        is_in_place = func.overloadpacket.__name__.endswith("_")
        return args[0] if is_in_place else super()._draw(func, device, args, kwargs)


def _device(args: tuple, kwargs: dict) -> torch.device:
    """Return where an operation draws."""
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    return tensors[0].device if tensors else torch.device(kwargs.get("device") or "cpu")


@cache
def _draws(func) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _names(func) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


@cache
def _taking_generator(func):
    """Return the overload of the operation that takes a generator; None if there is none."""
    names = _names(func)
    if "generator" in names:
        return func
    for overload in func.overloadpacket.overloads():
        candidate = getattr(func.overloadpacket, overload)
        others = _names(candidate)
        if "generator" in others and [name for name in others if name != "generator"] == names:
            return candidate
    return None


@cache
def _position_of_generator(func) -> int | None:
    """Return where a generator goes that may be given by position."""
    arguments = func._schema.arguments
    index = _names(func).index("generator")
    return None if arguments[index].kwarg_only else index
