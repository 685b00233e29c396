"""Singular values of a product of given matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from sigprop.jacobians._graded import _dot, finish, generic_frame, start, step
from sigprop.jacobians._pivoted import split
from sigprop.networks import alone, one_thread
from theory import Status
from theory.numerics import as_real, check_positive, compiled

_LOSS = 5.0
"""Factors are multiplied together while the logs of their scales spread by less than this."""
_FORGET = 0.9
"""Least ratio of the spread expected of the next factor to that of the last."""
_LONGEST = 16
"""Largest number of factors that are multiplied together."""
_UNEVEN = 1e-3
_KNOWN = 1e-11
"""Smaller errors are no reason to split factors, whatever the tolerance."""
_KNOWN_SINGLE = 1e-2
"""The same in single precision; split factors use double precision."""
_SIZE = 0.25
"""Standard deviation of the rounding error of a dot product aᵀb, in eps |a| |b|."""


class ProductSpectrum(eqx.Module):
    """Singular values of a product of matrices."""

    log_singular_values: Float[Array, " values"]
    """Natural logarithms, descending; −inf for zeros."""
    error: Float[Array, ""]
    """The largest absolute error of a finite value that rounding explains; infinite if it is
    unknown, or if a zero may be none."""
    zeros: Int[Array, ""]
    """Number of singular values that are zero to working precision."""
    status: Int[Array, ""]
    """One `Status` for all: INACCURATE if `error` is above the tolerance, NOT_CONVERGED, or
    INVALID if a factor contains NaN or infinity."""
    lyapunov: Float[Array, " values"]
    """Finite-time Lyapunov estimates: the logs of the diagonals of R in the QR factorisation layer
    by layer, averaged. They differ by O(1/depth) from the logs of the singular values over the
    depth."""


def product_log_singular_values(
    factors: Float[Array, "layers n n"], *, tolerance: float = 1e-9
) -> ProductSpectrum:
    """All singular values of A_L … A_2 A_1, each to full relative accuracy.

    Parameters
    ----------
    factors
        The square matrices A_1 … A_L, the first one to be applied first.
    tolerance
        The status is INACCURATE if `error` is larger.

    Accuracy
    --------
    The factors count as exact. `error` is an estimate, not a bound. Rounding errors have known
    sizes, row by row, and random signs: three draws of them are propagated to first order through
    everything that follows, and 7 times the largest is reported. The error is infinite if first
    order is not enough: for rounding errors of a tenth or more, a scale outside the range of the
    dtype, or a direction that is mapped to less than its rounding error, whose value is then −∞.
    A direction is certainly mapped to zero if rows or columns are zero.

    Factors are multiplied together, 16 at most, while the logarithms of their scales are
    expected to spread by less than 5. If `error` then misses the tolerance, the calculation is
    repeated with each factor separately. If that misses it too, every factor is split into
    diagonal and well-conditioned ones by Gaussian elimination with complete pivoting, for
    products of up to 3e7 entries times columns. If rounding hides a pivot, up to 32 rows are
    eliminated in fractions, so that a direction counts as mapped to zero only if the factor is
    exactly singular. Under `jax.jit` or `jax.vmap` nothing is repeated.

    Raises
    ------
    ValueError
        If there is no factor or the factors are not square.
    """
    check_positive("tolerance", tolerance)
    factors = jnp.asarray(as_real("factors", factors))
    shape = factors.shape
    if len(shape) != 3 or 0 in shape or shape[1] != shape[2]:
        raise ValueError(
            f"`factors`: must be at least one square matrix, shape [layers, n, n]; got {shape}"
        )
    if not jnp.issubdtype(factors.dtype, jnp.floating):
        raise ValueError(f"`factors`: must be real floating-point numbers; got {factors.dtype}")
    return spectrum_of_product(factors, tolerance)


def spectrum_of_product(
    factors: Array, tolerance: float, *, believed: bool = False
) -> ProductSpectrum:
    """`product_log_singular_values` of checked arguments.

    If `believed`, directions that are mapped to less than their rounding error count as mapped
    to zero, as is right for factors that are rounded themselves.
    """
    limit = jnp.asarray(tolerance, factors.dtype)
    believe = jnp.asarray(believed)
    longest = lambda count: jnp.asarray(count, jnp.int32)
    if isinstance(factors, Tracer):
        return _product_spectrum(factors, limit, longest(_LONGEST), believe)[0]
    with one_thread():
        found, joined = jax.block_until_ready(
            _product_spectrum(factors, limit, longest(_LONGEST), believe)
        )
        if joined and found.error > limit:
            # A factor unlike those before it: none are multiplied together.
            again, _ = jax.block_until_ready(_product_spectrum(factors, limit, longest(1), believe))
            found = again if again.error < found.error else found
        known = _KNOWN if factors.dtype == jnp.float64 else _KNOWN_SINGLE
        if found.status != Status.INVALID and found.error > max(limit, known):
            found = _in_parts(factors, found, limit)
    return found


def _in_parts(factors: Array, found: ProductSpectrum, limit: Array) -> ProductSpectrum:
    """The spectrum from split factors, or the one in `found` if that is better."""
    parts = split(np.asarray(factors)) if jnp.result_type(float) == jnp.float64 else None
    if parts is None or not parts.error < found.error:
        return found
    one = jnp.asarray(1, jnp.int32)
    once, _ = jax.block_until_ready(
        _product_spectrum(jnp.asarray(parts.factors), limit.astype(float), one, jnp.asarray(False))
    )
    values = once.log_singular_values + parts.log_scale
    largest = jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0))
    rounding = float(jnp.finfo(factors.dtype).eps) * (1 + abs(parts.log_scale) + largest)
    # Where factors have to be split, a few draws of the signs of rounding say least.
    error = (2 * once.error + parts.error + rounding).astype(factors.dtype)
    if not error < found.error:
        return found
    layers, count = len(factors), len(parts.factors)
    status = jnp.where(error <= limit, Status.OK, Status.INACCURATE).astype(jnp.int8)
    return ProductSpectrum(
        values.astype(factors.dtype),
        error,
        once.zeros,
        jnp.where(once.status == Status.OK, status, once.status),
        ((once.lyapunov * count + parts.log_scale) / layers).astype(factors.dtype),
    )


@compiled
@alone
def _product_spectrum(
    factors, tolerance, longest, believed
) -> tuple[ProductSpectrum, Bool[Array, ""]]:
    """The spectrum, and whether any factors were multiplied together."""
    layers, n, _ = factors.shape
    state = start(generic_frame(n, factors.dtype))

    def one_factor(carry, factor):
        state, product, noise, since, cadence, rate, joined = carry
        columns = jnp.max(jnp.abs(factor), axis=0)
        largest = jnp.max(columns)
        largest = jnp.where(largest > 0, largest, 1.0).astype(factor.dtype)
        columns = columns / largest
        # Columns of very different size come first: a product would mix and lose them.
        uneven = jnp.min(columns) < _UNEVEN
        split = jnp.where(uneven & (columns > 0), columns, 1.0)

        def stretched(state):
            state = step(state, columns[:, None] * product, columns * noise)
            return state, state.frame, 0 * noise

        state, product, noise = jax.lax.cond(
            uneven, stretched, lambda s: (s, product, noise), state
        )
        factor = factor / largest / split[None]
        # Rounding from before, and from this product, by row.
        own = _SIZE**2 * jnp.sum(product**2, axis=1)
        noise = jnp.sqrt(_dot(factor**2, jnp.maximum(noise**2, own)))
        product = _dot(factor, product)

        def factorised(state):
            after = step(state, product, noise)
            spread = _spread(after.log_scales - state.log_scales) / (since + 1).astype(factor.dtype)
            # A layer may consist of several factors, some of which spread nothing.
            expected = jnp.maximum(jnp.maximum(spread, _FORGET * rate), 0.1)
            most = jnp.minimum(2 * cadence, longest).astype(factor.dtype)
            new = jnp.clip(_LOSS / expected, 1, most)
            return after, after.frame, 0 * noise, 0 * since, new.astype(jnp.int32), expected

        waits = lambda state: (state, product, noise, since + 1, cadence, rate)
        state, *rest = jax.lax.cond(since + 1 >= cadence, factorised, waits, state)
        log_scales = state.log_scales + jnp.log(largest)
        state = eqx.tree_at(lambda s: s.log_scales, state, log_scales)
        return (state, *rest, joined | (cadence > 1)), None

    one = jnp.asarray(1, jnp.int32)
    rate = jnp.asarray(0, factors.dtype)
    begin = (
        state,
        state.frame,
        jnp.zeros(n, factors.dtype),
        0 * one,
        one,
        rate,
        jnp.asarray(False),
    )
    (state, product, noise, *_, joined), _ = jax.lax.scan(one_factor, begin, factors)
    found = finish(state, product, tolerance, noise, believed=believed)
    values, error, zeros, status, log_scales = found
    finite, whole = _readable(factors)
    lost = ~whole | ((status == Status.INVALID) & finite)
    error = jnp.where(finite, jnp.where(lost, jnp.inf, error), jnp.nan)
    status = jnp.where(lost, Status.INACCURATE, status)
    status = jnp.where(finite, status, Status.INVALID).astype(jnp.int8)
    values, log_scales = (jnp.where(finite, x, jnp.nan) for x in (values, log_scales))
    zeros = jnp.where(finite, zeros, 0)
    return ProductSpectrum(values, error, zeros, status, log_scales / float(layers)), joined


def _readable(factors: Array) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether all entries are finite, and whether none is small enough to be lost.

    XLA may read subnormal numbers as zero, so they are detected by their bits.
    """
    info = jnp.finfo(factors.dtype)
    bits = {8: jnp.uint64, 4: jnp.uint32, 2: jnp.uint16}[factors.dtype.itemsize]
    x = jax.lax.bitcast_convert_type(factors, bits) << 1
    subnormal = (x != 0) & (x < (jnp.ones((), bits) << (info.nmant + 1)))
    sizes = jnp.abs(factors)
    least = jnp.max(sizes, axis=(1, 2), keepdims=True) * float(info.tiny / info.eps)
    lost = subnormal | ((sizes < least) & (sizes > 0))
    return jnp.all(jnp.isfinite(factors)), ~jnp.any(lost)


def _spread(growth: Float[Array, " p"]) -> Float[Array, ""]:
    """The range of the logarithmic growth of directions that are not dead."""
    alive = jnp.isfinite(growth)
    high = jnp.max(jnp.where(alive, growth, -jnp.inf))
    low = jnp.min(jnp.where(alive, growth, jnp.inf))
    return jnp.where(jnp.any(alive), high - low, 0.0).astype(growth.dtype)
