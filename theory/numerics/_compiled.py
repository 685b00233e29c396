"""How programs are compiled and run on a CPU: options of XLA, and how many cores there are.

With its own options XLA spends much of its time on what little is gained from.
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_HASTY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
_LIGHT = {"xla_backend_optimization_level": 2, "xla_cpu_use_fusion_emitters": False}
_PLAIN = {"xla_cpu_use_fusion_emitters": False}


def hasty_options() -> dict[str, Any]:
    """For what costs more to compile than to run: a third of the time to compile."""
    return _known(_HASTY)


def light_options() -> dict[str, Any]:
    """Half the time to compile; integrals over two variables run 1.6 times as long."""
    return _known(_LIGHT)


def plain_options() -> dict[str, Any]:
    """For finite networks: two thirds of the time to compile, and as fast."""
    return _known(_PLAIN)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in options.items() if _is_option(name, value)}


@functools.cache
def _is_option(name: str, value: Any) -> bool:
    """Whether this version of XLA has an option; an unknown one would be an error."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def compiled(fn: Callable, options: Callable[[], dict[str, Any]] | None) -> Any:
    """The function, compiled with these options; to be called outside of other compiled ones."""
    jit: Any = eqx.filter_jit  # its overloads leave out the options of jax.jit
    return jit(fn, compiler_options=options() if options else None)


def compile_side_by_side(calls: Iterable[tuple[Any, tuple]]) -> None:
    """What `compiled` gave, compiled for these arguments, on all cores; calls find it there."""
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda call: call[0].lower(*call[1]).compile(), calls))


def inside_another(tree: Any) -> bool:
    """Whether a call with these arguments is part of a program that is being traced."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((tree, jnp.zeros(()))))


def structure(tree: Any) -> tuple:
    """What a program is compiled for: everything but the numbers in arrays."""
    leaves, kind = jax.tree.flatten(tree)
    known = lambda x: (np.shape(x), jnp.result_type(x)) if eqx.is_array_like(x) else x
    return kind, *map(known, leaves)


def one_program(options: Callable[[], dict[str, Any]]) -> Callable:
    """A decorator: the function compiled as a whole, once for each structure and shape of its
    arguments, unless it is part of another program.
    """

    def decorate(fn: Callable) -> Callable:
        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            alone = not inside_another((args, kwargs))
            return (compiled(fn, options) if alone else fn)(*args, **kwargs)

        return call

    return decorate


def hasty_jit(fn: Callable) -> Callable:
    """`eqx.filter_jit`, with `hasty_options` where nothing else is being compiled around it: for
    functions that are called for one point, and compile for longer than they run.

    Numbers of Python are arrays to it, but whole ones: another tolerance is no other program.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        options = None if inside_another((args, kwargs)) else hasty_options
        known = lambda x: jnp.asarray(x, jnp.result_type(float)) if isinstance(x, float) else x
        args, kwargs = jax.tree.map(known, (args, kwargs))
        return compiled(fn, options)(*args, **kwargs)

    return call


def cores() -> int:
    """How many this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
