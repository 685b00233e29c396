"""Single networks are read without a compiler: by the same functions, on arrays of NumPy."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from theory.description._activations import Componentwise, Radial
from theory.description._nodes import Affine, Chain, Noise, Normalise, Pointwise, Repeat, Residual
from theory.numerics import hasty_jit, inside_another, on_host, to_jax


def directly_if(few: Callable[..., bool], compiled: Callable[[Callable], Any]) -> Any:
    """A decorator: the function without a compiler where its arguments are `few`, and compiled
    elsewhere, as inside other programs and under derivatives."""

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
    """fn(*args) with arrays of NumPy, and JAX's back."""
    with np.errstate(all="ignore"):
        return to_jax(fn(*on_host(args)))


def is_simple(network: Any, *, lengths: bool = True) -> bool:
    """Whether `MeanField` reads this in NumPy: layers of functions without jumps in a chain, with
    skip connections and norms; with `lengths` also its derivatives by the length."""
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
