"""The largest singular values of a Jacobian, from its products with vectors only.

Notation: as in `_operator`.
"""

import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sigprop.jacobians._operator import (
    Operator,
    bidiagonal,
    check_differentiable,
    nonzero,
    operator_of,
    smaller_side,
)
from sigprop.networks import check_key, qr, singular_values, svd
from theory import Status
from theory.numerics import check_count, check_positive, compiled

_CLOSE = 4.0
"""Values are separated if they differ by more than this many times the resolution."""


class LeadingValues(eqx.Module):
    """The largest singular values of a Jacobian, with their vectors."""

    log_singular_values: Float[Array, " count"]
    """Natural logarithms, descending. −inf with status INFINITE if J is zero; NaN with status
    ABSENT if the value is below the rounding error of the largest."""
    error: Float[Array, " count"]
    """A bound on the distance, in the logarithm, to a singular value of J. Infinite, with status
    NOT_CONVERGED, if the residual is as large as the value or a larger value was missed."""
    status: Int[Array, " count"]
    """`Status`: INACCURATE if `error` is above the tolerance, INVALID if the function or its
    derivative is NaN or infinite."""
    left: Float[Array, "count rows"]
    """u, flattened outputs; zeros if there is no value."""
    right: Float[Array, "count columns"]
    """v, flattened inputs."""


def leading_singular_values(
    fn: Callable | Sequence[Callable],
    x: Float[Array, "*shape"],
    *,
    key: Key[Array, ""],
    count: int = 8,
    steps: int | None = None,
    tolerance: float = 1e-6,
) -> LeadingValues:
    """The `count` largest singular values of ∂f/∂x and their vectors, without the matrix.

    The method is Golub–Kahan bidiagonalisation with full re-orthogonalisation, by `matfree`.

    Parameters
    ----------
    fn
        A function of one array; a sequence of layers, the first one first, whose tangents
        are rescaled in between; or a `DrawnNetwork` of any depth.
    x
        Where the derivative is taken; its dtype is that of the function.
    key
        Decides the first vector.
    count
        Number of singular values, at most min(rows, columns).
    steps
        Number of products with J and with Jᵀ; 4 · count + 20 by default, at most
        min(rows, columns).
    tolerance
        The status is INACCURATE if `error` is larger.

    Accuracy
    --------
    `error` follows from the residuals |J v − s u| and |Jᵀ u − s v|, computed afresh, and from
    the rounding of one product: J, as the function computes it, has a singular value that
    close. The residual does not show whether one was missed: a single starting vector finds
    every multiple value only once. So a third as many steps search the orthogonal complement of
    the vectors found for a larger value. If there is one, the i-th value is really a later one;
    its error is infinite and its status NOT_CONVERGED. With few `steps` and hardly any gap a
    value can still be missed. Values are never too large by more than rounding.

    Raises
    ------
    ValueError
        If `count` or `steps` is out of range, `x` has no floating-point numbers, or the weights
        of the network are not explicit.

    References
    ----------
    Golub and Kahan 1965, section 4.
    """
    check_differentiable(fn, x)
    check_key("key", key)
    check_positive("tolerance", tolerance)
    smaller = smaller_side(fn, x)
    check_count("count", count)
    if count > smaller:
        raise ValueError(f"`count`: must be at most min(rows, columns) = {smaller}; got {count}")
    if steps is not None:
        check_count("steps", steps)
    steps = min(smaller, 4 * count + 20 if steps is None else steps)
    if steps < count:
        raise ValueError(f"`steps`: must be at least `count`, {count}; got {steps}")
    return _leading(fn, x, key, count, steps, tolerance)


@compiled
def _leading(fn, x, key, count, steps, tolerance) -> LeadingValues:
    # From the smaller side, so that all steps are enough to exhaust it.
    plain = operator_of(fn, x, jax.random.fold_in(key, 0))
    operator = plain.tall()
    start = jax.random.normal(jax.random.fold_in(key, 1), (operator.columns,), float)
    _, basis = bidiagonal(operator, start, steps)
    # If the Krylov space was exhausted, the last vectors are rounding errors. An orthonormal frame
    # of the same span, and fresh products with it, are not affected.
    frame = qr(basis.T)[0].T
    u, values, right = svd(jax.vmap(operator.forward)(frame).T)
    u, values, v = u.T[:count], values[:count], _times(right[:count], frame)
    onward = jax.vmap(operator.forward)(v) - values[:, None] * u
    back = jax.vmap(operator.backward)(u) - values[:, None] * v
    residual = jnp.maximum(jnp.linalg.norm(onward, axis=1), jnp.linalg.norm(back, axis=1))
    floor = operator.rounding * values[0]
    resolved, close = values > floor, residual + floor < values
    error = -jnp.log1p(-jnp.where(close, (residual + floor) / nonzero(values), 0.5))
    error = jnp.where(close, error, jnp.inf)
    above = _missed(operator, v, jax.random.fold_in(key, 2), steps)
    # For a value in the middle of a cluster, larger values of the cluster were missed, too.
    close &= values * jnp.exp(error) >= above - _CLOSE * floor
    # Rounding of the logarithm itself, and of the scale that is added to it.
    shift = 2 * float(jnp.finfo(values.dtype).eps) * jnp.abs(operator.log_scale)
    error = jnp.where(close, error + shift, jnp.inf)
    status = jnp.where(error <= tolerance, Status.OK, Status.INACCURATE)
    status = jnp.where(close, status, Status.NOT_CONVERGED)
    status = jnp.where(resolved, status, Status.ABSENT)
    log_values = jnp.where(resolved, jnp.log(nonzero(values)) + operator.log_scale, jnp.nan)
    zero = operator.zero & operator.valid
    log_values = jnp.where(zero, -jnp.inf, log_values)
    status = jnp.where(zero, Status.INFINITE, status)
    status = jnp.where(operator.valid, status, Status.INVALID).astype(jnp.int8)
    log_values = jnp.where(operator.valid, log_values, jnp.nan)
    known = resolved & operator.valid & ~zero
    error = jnp.where(known, error, jnp.nan)
    u, v = (jnp.where(known[:, None], vectors, 0.0) for vectors in (u, v))
    u, v = (u, v) if operator is plain else (v, u)
    return LeadingValues(log_values, error, status, u, v)


_times = functools.partial(jnp.matmul, precision="highest")


def _missed(operator: Operator, v: Array, key: Array, steps: int) -> Array:
    """The largest singular value on the orthogonal complement of the rows v.

    It is never too large by more than rounding.
    """
    across = lambda x: x - _times(v.T, _times(v, x))
    rest = operator._replace(forward=lambda x: operator.forward(across(x)))
    start = across(jax.random.normal(key, (operator.columns,), float))
    values, _ = bidiagonal(rest, start, min(operator.columns, operator.rows, max(12, steps // 3)))
    return singular_values(values)[0]
