"""Compiling and running programs on a CPU: XLA options, and the number of cores.

With its default options XLA spends much of its time on optimisations that gain little.
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

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


class Compiled(NamedTuple):
    """A function that is compiled, with its options, for the device of its arguments."""

    fn: Callable
    options: Options | None

    def _at(self, given: Any) -> Any:
        platform = None if self.options is None else device_of(given).platform
        return _jitted(self.fn, self.options, platform)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._at((args, kwargs))(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        return self._at((args, kwargs)).lower(*args, **kwargs)


def compiled(fn: Callable, options: Options | None) -> Compiled:
    """Compile a function with these options; call it outside of other compiled functions."""
    return Compiled(fn, options)


@functools.cache
def _jitted(fn: Callable, options: Options | None, platform: str | None) -> Any:
    jit: Any = eqx.filter_jit  # its overloads omit the options of jax.jit
    return jit(fn, compiler_options=options(platform) if options else None)


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
