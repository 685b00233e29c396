"""Compiling and running programs on a CPU: XLA options, and the number of cores.

With its default options XLA spends much of its time on optimisations that gain little.
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_HASTY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
_LIGHT = {"xla_backend_optimization_level": 2, "xla_cpu_use_fusion_emitters": False}
_PLAIN = {"xla_cpu_use_fusion_emitters": False}


def hasty_options(platform: str | None = None) -> dict[str, Any]:
    """Options for programs that compile longer than they run: a third of the compile time.

    For programs on a platform, by default that of `device_of`; there are none elsewhere than on a
    CPU.
    """
    return _known(_HASTY, platform)


def light_options(platform: str | None = None) -> dict[str, Any]:
    """Half the compile time; integrals over two variables run 1.6 times as long."""
    return _known(_LIGHT, platform)


def plain_options(platform: str | None = None) -> dict[str, Any]:
    """Options for finite networks: two thirds of the compile time, and as fast."""
    return _known(_PLAIN, platform)


def device_of(*trees: Any) -> Any:
    """The device that runs a program of these arguments.

    It is that of an array that was put on one, otherwise JAX's default device.
    """
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed:
            return min(leaf.devices(), key=lambda device: device.id)
    config: Any = jax.config
    chosen = config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen


def _known(options: Mapping[str, Any], platform: str | None) -> dict[str, Any]:
    if (platform or device_of().platform) != "cpu":
        return {}
    return {name: value for name, value in options.items() if _is_option(name, value)}


@functools.cache
def _is_option(name: str, value: Any) -> bool:
    """Whether this version of XLA has an option; an unknown one would be an error."""
    try:
        with jax.default_device(host()):
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def host() -> Any:
    """The processor of this process."""
    return jax.local_devices(backend="cpu")[0]


Options: TypeAlias = Callable[[str | None], dict[str, Any]]


_KEPT = 128


def compiled(fn: Callable, options: Options | None = None) -> Any:
    """Compile a function for the device of its arguments: `eqx.filter_jit` in bounded memory.

    Whatever is not an array in the arguments, such as a user's nonlinearity, has a program of its
    own. The last 128 programs are kept; JAX alone keeps all of them, about 1.5 MB each.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        program, arrays = _program_of(fn, options, args, kwargs)
        numbers, rest = program(arrays)
        return eqx.combine(numbers, rest.value)

    def lower(*args: Any, **kwargs: Any) -> Any:
        program, arrays = _program_of(fn, options, args, kwargs)
        return program.lower(arrays)

    whole: Any = call
    whole.lower = lower
    return whole


def _program_of(fn: Callable, options: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    platform = None if options is None else device_of((args, kwargs)).platform
    arrays, rest = eqx.partition((args, kwargs), eqx.is_array)
    leaves, kind = jax.tree.flatten(rest)
    return _program(fn, options, platform, kind, tuple(leaves), tuple(map(type, leaves))), arrays


@functools.lru_cache(maxsize=_KEPT)
def _program(
    fn: Callable,
    options: Options | None,
    platform: str | None,
    kind: Any,
    leaves: tuple,
    _types: tuple,
) -> Any:
    """Compile for these leaves that are no arrays; equal ones of other types (1, True) differ."""

    @functools.wraps(fn)
    def run(arrays: Any) -> tuple[Any, _Rest]:
        args, kwargs = eqx.combine(arrays, jax.tree.unflatten(kind, leaves))
        numbers, rest = eqx.partition(fn(*args, **kwargs), eqx.is_array)
        return numbers, _Rest(rest)

    jit: Any = jax.jit  # its overloads omit the options
    return jit(run, compiler_options=options(platform) if options else None)


class _Rest(eqx.Module):
    """What is not an array in a result."""

    value: Any = eqx.field(static=True)


def compile_side_by_side(calls: Iterable[tuple[Any, tuple]]) -> None:
    """Compile results of `compiled` for these arguments, on all cores, ahead of the calls."""
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda call: call[0].lower(*call[1]).compile(), calls))


def inside_another(tree: Any) -> bool:
    """Whether a call with these arguments is part of a program that is being traced."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((tree, jnp.zeros(()))))


def structure(tree: Any) -> tuple:
    """What a program is specialised to: everything but the numbers in arrays."""
    leaves, kind = jax.tree.flatten(tree)
    known = lambda x: (np.shape(x), jnp.result_type(x)) if eqx.is_array_like(x) else x
    return kind, *map(known, leaves)


def one_program(options: Options) -> Callable:
    """Decorate a function to compile as a whole, once per structure and shape of its arguments.

    Inside another program it is inlined.
    """

    def decorate(fn: Callable) -> Callable:
        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            alone = not inside_another((args, kwargs))
            return (compiled(fn, options) if alone else fn)(*args, **kwargs)

        return call

    return decorate


def hasty_jit(fn: Callable) -> Callable:
    """`eqx.filter_jit` with `hasty_options`, unless it is part of another compilation.

    Use it for functions that are called for one point and compile for longer than they run.
    Python numbers other than integers count as arrays: changing a tolerance compiles nothing.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        options = None if inside_another((args, kwargs)) else hasty_options
        known = lambda x: jnp.asarray(x, jnp.result_type(float)) if isinstance(x, float) else x
        args, kwargs = jax.tree.map(known, (args, kwargs))
        return compiled(fn, options)(*args, **kwargs)

    return call


def cores() -> int:
    """The number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
