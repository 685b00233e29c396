"""Activations from any elementwise function, with checks."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from theory.description._activations import Componentwise, Parity
from theory.description._jumps import may_jump
from theory.numerics import Array, as_kinks, compiled, shown

_SAMPLE = (0.0, 0.15, 0.4, 0.7, 1.1, 1.9, 3.2, -0.15, -0.4, -0.7, -1.1, -1.9, -3.2)


def componentwise(
    fn: Callable[[Array], Array],
    *,
    kinks: Iterable[float | int] = (),
    scale: float | int = 1.0,
    parity: Parity | None = None,
    name: str | None = None,
) -> Componentwise:
    """Make an activation from any elementwise function.

    The quadrature trusts the declarations that it cannot check: an undeclared kink, or a narrow
    feature far from 0, costs most of the accuracy and is not always detected. Spectra and
    products of saturated layers need φ' to full relative accuracy in its tails. JAX's own
    derivatives of tanh (1 − t²), sigmoid (s(1 − s)) and expm1 (e + 1) do not provide that: they
    round to zero. Build on `activation("tanh")`, "sigmoid" and so on, which do, or define the
    derivative of φ yourself:

        TANH = theory.activation("tanh")
        steep = theory.componentwise(lambda z: TANH(10 * z), scale=0.1, parity="odd")

        @jax.custom_jvp
        def logistic(z):
            return jax.nn.sigmoid(z)

        logistic.defjvps(lambda t, value, z: logistic(z) * logistic(-z) * t)

    Parameters
    ----------
    fn
        φ: maps an array to one of the same shape and dtype; JAX must be able to trace and
        differentiate it. Alternatively an `equinox.Module` that is callable in this way; its array
        leaves are the parameters.
    kinks
        Where φ or a derivative jumps, and the centres of narrow features away from 0 (3 for
        tanh(z - 3)).
    scale
        Width of the features of φ around 0 and the kinks, beyond which φ changes slowly: 0.1 for
        tanh(10 z). Make it large (1e9) if the pieces between kinks are polynomials, or if the
        features do not die out, as for sin.
    parity
        "odd", "even" or None; checked at a few points.
    name
        Used in text and file names; by default the name of `fn`.

    Raises
    ------
    ValueError
        If an argument is out of range; if `fn` is not elementwise, changes shape or dtype, or it
        or its derivative is not finite at ordinary points; if the parity is wrong. Checks that
        need numbers are skipped while a parameter of `fn` is traced.
    """
    return checked_componentwise("fn", fn, kinks, scale, parity, name)


def checked_componentwise(
    field: str, fn: Any, kinks: Any, scale: Any, parity: Any, name: Any
) -> Componentwise:
    """Build a `Componentwise` after all checks; errors call the function `field`."""
    if not callable(fn):
        raise ValueError(f"`{field}`: must be callable on an array; got {shown(fn)}")
    given = as_kinks(kinks)
    if any(isinstance(kink, Tracer) for kink in given):
        raise ValueError("`kinks`: must be known numbers; got traced ones")
    places = tuple(sorted({float(kink) for kink in given}))
    if not (isinstance(scale, int | float | np.number) and 0 < scale < math.inf):
        raise ValueError(f"`scale`: must be a number in (0, inf); got {shown(scale)}")
    if not (parity is None or (isinstance(parity, str) and parity in ("odd", "even"))):
        raise ValueError(f'`parity`: must be "odd", "even" or None; got {shown(parity)}')
    if name is None:
        name = getattr(fn, "__name__", type(fn).__name__)
        name = "custom" if name == "<lambda>" else name
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ValueError(f"`name`: must be a non-empty string; got {shown(name)}")
    module = as_module(fn)
    _check_shapes(field, module)
    _check_values(field, module, parity)
    jumps = may_jump(module, places)
    return Componentwise(module, places, float(scale), parity, name, jumps=jumps)


class _Function(eqx.Module):
    """A plain function as a pytree without leaves, so that all leaves of φ are arrays."""

    fn: Callable[[Any], Any] = eqx.field(static=True)

    def __call__(self, z: Any) -> Any:
        return self.fn(z)


def as_module(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return _Function(fn) if any(leaf is fn for leaf in jax.tree.leaves(fn)) else fn


def _check_shapes(field: str, fn: Callable[[Any], Any]) -> None:
    dtype = jnp.result_type(float)
    for shape in ((), (3,), (2, 3)):
        try:
            result = jax.eval_shape(lambda z: fn(z), jax.ShapeDtypeStruct(shape, dtype))
        except Exception as error:
            why = _failure(error, f"on an array of shape {shape}")
            raise ValueError(f"`{field}`: {why}") from error
        if not isinstance(result, jax.ShapeDtypeStruct):
            raise ValueError(f"`{field}`: must return one array; got {shown(result)}")
        if result.shape != shape:
            raise ValueError(
                f"`{field}`: must keep the shape of its argument; got {result.shape} for {shape}"
            )
        if result.dtype != dtype:
            raise ValueError(
                f"`{field}`: must keep the dtype of its argument; got {result.dtype} for {dtype}"
            )


@compiled
def _probe(fn: Callable[[Any], Any], z: Array) -> tuple[Array, Array, Array, Array]:
    """φ(z), φ'(z), φ of each element separately, and φ(-z)."""
    value, slope = jax.jvp(lambda z: fn(z), (z,), (jnp.ones_like(z),))
    return value, slope, jax.vmap(lambda z: fn(z))(z), fn(-z)


def _check_values(field: str, fn: Callable[[Any], Any], parity: Parity | None) -> None:
    with jax.ensure_compile_time_eval():
        z = jnp.asarray(_SAMPLE, jnp.result_type(float))
        try:
            results = _probe(fn, z)
        except Exception as error:
            raise ValueError(f"`{field}`: {_failure(error, 'when differentiated')}") from error
        if any(isinstance(result, Tracer) for result in results):
            return  # a traced parameter of fn, or a traced value that it closes over
    value, slope, alone, mirrored = map(np.asarray, results)
    _require_finite(field, "fn", value)
    _require_finite(field, "the derivative of fn", slope[1:])
    tolerance = math.sqrt(np.finfo(value.dtype).eps) * np.max(np.abs(value))
    for i, point in enumerate(_SAMPLE):
        if not abs(value[i] - alone[i]) <= tolerance:
            raise ValueError(
                f"`{field}`: must act on each element separately, but at {point} it gives "
                f"{value[i]:.6g} together with others and {alone[i]:.6g} alone"
            )
    if parity is not None:
        expected = -value if parity == "odd" else value
        for i, point in enumerate(_SAMPLE):
            if not abs(mirrored[i] - expected[i]) <= tolerance:
                raise ValueError(
                    f"`parity`: declared {parity}, but fn({point}) = {value[i]:.6g} and "
                    f"fn({-point}) = {mirrored[i]:.6g}"
                )


def _require_finite(field: str, what: str, values: np.ndarray) -> None:
    for point, value in zip(_SAMPLE[-len(values) :], values, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"`{field}`: {what} must be finite, but is {value} at {point}")


def _failure(error: Exception, when: str) -> str:
    first = (str(error).splitlines() or [""])[0][:120]
    return f"must be a function JAX can trace; {when} it raised {type(error).__name__}: {first}"
