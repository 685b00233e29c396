"""Reading single networks without a compiler: the same functions, on NumPy arrays."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from theory.description._activations import Componentwise, Radial
from theory.description._nodes import Affine, Chain, Noise, Normalise, Pointwise, Repeat, Residual
from theory.numerics import hasty_jit, inside_another, on_host, to_jax


def directly_if(few: Callable[..., bool], compiled: Callable[[Callable], Any]) -> Any:
    """Decorate a function to run without a compiler if its arguments are `few`.

    Otherwise, and inside other programs and under derivatives, it is compiled.
    """

    def decorate(fn: Callable) -> Any:
        program, signature = compiled(fn), inspect.signature(fn)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            args, kwargs = given.args, given.kwargs
            if inside_another((args, kwargs)) or not few(*args, **kwargs):
                return program(*args, **kwargs)
            return on_numpy(functools.partial(fn, **on_host(kwargs)), *args)

        whole: Any = call
        whole.program = program
        return whole

    return decorate


def on_numpy(fn: Callable, *args: Any) -> Any:
    """Call fn(*args) on NumPy arrays, and return JAX arrays."""
    with np.errstate(all="ignore"):
        return to_jax(fn(*on_host(args)))


def is_simple(network: Any, *, lengths: bool = True) -> bool:
    """Whether `MeanField` reads this network in NumPy.

    That is so for layers of functions without jumps in a chain, with skip connections and
    normalisation. With `lengths` it must also hold for derivatives with respect to the length.
    """
    simple = functools.partial(is_simple, lengths=lengths)
    match network:
        case Chain(parts=parts):
            return all(map(simple, parts))
        case Residual(branch=branch):
            return simple(branch)
        case Repeat(body=body):
            return not lengths and simple(body)
        case Affine():
            return not lengths or network.weights.variance.ndim == 0 == network.bias_variance.ndim
        case Pointwise(activation=phi):
            return simple(phi)
        case Componentwise() | Radial():
            return not network.jumps
        case Normalise():
            return not lengths or network.kind == "rms"
        case Noise():
            return not lengths or network.variance.ndim == 0
        case _:
            return False


directly = directly_if(lambda network, *_, **__: is_simple(network), hasty_jit)
"""For functions of one network, or one activation."""
