"""All singular values of a deep product to full relative accuracy, whatever its condition."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from sigprop._lapack import alone, divide_upper, one_thread, qr, solve, solve_upper, triangle
from theory import Status

# Notation: the product of the factors so far is J = Q e^d T, with Q well conditioned, d the
# logs of its scales, T upper triangular with unit diagonal. To first order the exact product
# is Q (1 + X) e^d T + Q e^d dT, where X (strictly lower triangular) and dT, both float32 and
# in units of eps, are what rounding did. The part of X above the diagonal belongs to dT.

_CUT = 12
"""Bits of a number that are kept when its last bits serve as a sample of rounding."""
_SAFETY = 64.0
"""The reported error over that of the sample: products round more than once in every entry,
and one sample can be small by chance. Of 1190 products of 16 or 32 rows, ordered to saturated,
one needed 53, the others at most 21."""
_FAST = 1e-4
"""Scales above this (relative to the first) let the factorisation be done in float32."""
_LOSS = 5.0
"""Factors are multiplied together while the logs of their scales spread by less."""
_FORGET = 0.9
"""The spread that the next factor is expected to have, at least, over that of the last."""
_LONGEST = 16
"""Factors that are multiplied together at most."""
_UNEVEN = 1e-3
_STEPS = 60
_FAR = 80.0


class Graded(eqx.Module):
    """The product so far, in factors that neither over- nor underflow."""

    frame: Float[Array, "rows p"]
    """Q; columns of directions that were mapped to zero are zero."""
    log_scales: Float[Array, " p"]
    """d; −inf for directions that were mapped to zero."""
    mix: Float[Array, "p columns"]
    """T."""
    frame_drift: Float[Array, "p p"]
    """X."""
    mix_drift: Float[Array, "p columns"]
    """dT."""


class ProductSpectrum(eqx.Module):
    """Singular values of a product of matrices."""

    log_singular_values: Float[Array, " values"]
    """Natural logarithms, descending; −inf for zeros."""
    error: Float[Array, ""]
    """Of every finite one of them: the largest absolute error that rounding explains."""
    zeros: Int[Array, ""]
    """How many singular values are zero to working precision."""
    status: Int[Array, ""]
    """`Status` of the whole: INACCURATE if `error` is above the tolerance, NOT_CONVERGED,
    INVALID if a factor holds NaN or infinity."""
    lyapunov: Float[Array, " values"]
    """Finite-time Lyapunov estimates: the logs of the diagonals of R in the QR factorisation
    layer by layer, averaged. They are not the logs of singular values over depth, from which
    they differ by O(1/depth)."""


def start(frame: Float[Array, "rows p"]) -> Graded:
    """The empty product, acting on the columns of an orthonormal frame."""
    p = frame.shape[1]
    eye, zero = jnp.eye(p, dtype=frame.dtype), jnp.zeros((p, p), jnp.float32)
    return Graded(frame, jnp.zeros(p, frame.dtype), eye, zero, zero)


def generic_frame(size: int, dtype: Any) -> Float[Array, "{size} {size}"]:
    """A fixed random orthonormal frame: whatever the factors map to zero shows in the last
    columns, where `step` looks for it."""
    gaussian = jax.random.normal(jax.random.key(0), (size, size), dtype)
    return qr(gaussian)[0]


def step(state: Graded, product: Float[Array, "rows p"], *, last: bool = False) -> Graded:
    """Factorise A Q = Q' R, the image of the frame under one more factor.

    Convention: R is found in float32 from rows that are sorted by size and counts as exact;
    Q' = A Q R⁻¹ is then orthonormal to single precision, which is enough. Where R is too ill
    conditioned for that, or for the `last` step, both have the precision of the product.
    """
    size = jnp.max(jnp.abs(product))
    size = jnp.where(size > 0, size, 1.0).astype(product.dtype)
    before = state.log_scales
    q, r, noise, dead = _factorise(product / size, jnp.isneginf(before), last)
    p, columns = r.shape
    diagonal = jnp.diagonal(r)
    after = jnp.where(dead, -jnp.inf, before[:p] + jnp.log(diagonal) + jnp.log(size))
    unit = r / diagonal[:, None] * _ratio(before, before[:p])
    mix = _triangular_product(unit, state.mix)

    r32, mix32 = r.astype(jnp.float32), mix.astype(jnp.float32)
    inverse = solve_upper(r32[:, :p], jnp.eye(p, dtype=jnp.float32))
    moved = _dot(r32, state.frame_drift) + _aligned(noise, inverse)
    drift = _dot(moved[:, :p], inverse)
    drift = jnp.where(dead[None] | dead[:, None], 0.0, drift)
    inner = jnp.triu(drift) * _ratio(after, after, jnp.float32)
    mix_drift = _triangular_product(unit.astype(jnp.float32), state.mix_drift)
    mix_drift = mix_drift + _triangular_product(inner, mix32) + _rounding(mix)
    if columns > p:
        rest = (moved[:, p:] - _dot(drift, r32[:, p:])) * size.astype(jnp.float32)
        rest = jnp.where(dead[:, None], 0.0, rest) * _ratio(before[p:], after, jnp.float32)
        mix_drift = mix_drift + _dot(rest, state.mix[p:].astype(jnp.float32))
    return Graded(q, after, mix, jnp.tril(drift, -1), mix_drift)


def finish(
    state: Graded, product: Float[Array, "rows p"], tolerance: float | Float[Array, ""]
) -> tuple[Float[Array, " p"], Float[Array, ""], Int[Array, ""], Int[Array, ""], Array]:
    """Logs of the singular values, their error, the number of zeros, the status, and log_scales
    of the QR factorisation of the whole product.

    Two graded QR sweeps, then simultaneous Jacobi rotations of all pairs until what is still
    to come is below rounding.

    References
    ----------
    Demmel and Veselić 1992, theorem 3.1 (one-sided Jacobi keeps relative accuracy).
    """
    state = step(state, product, last=True)
    dead = jnp.isneginf(state.log_scales)
    zeros = jnp.sum(dead)
    dtype = state.mix.dtype
    eps = float(jnp.finfo(dtype).eps)
    low = jnp.min(jnp.where(dead, jnp.inf, state.log_scales))
    far = 4 * _cap(dtype)
    stand_in = jnp.where(jnp.isfinite(low), low, 0.0) - far
    d = jnp.where(dead, stand_in.astype(dtype), state.log_scales)

    first, d, lengths, order = _sorted(state.mix.T, d)
    basis, r = qr(first)
    y, d, _, turn = _sorted(*_swept(r, d))
    y, d, _, _ = _sorted(*_swept(triangle(y), d))
    alive = jnp.arange(len(d)) < len(d) - zeros
    y, d, left, _ = _rotated(y, d, alive, 500 * eps)

    # d log s = yᵀ dTᵀ a with y the right singular vector and Tᵀ a = y.
    y32 = jnp.zeros_like(y).at[turn].set(y).astype(jnp.float32)
    a = solve_upper(r.astype(jnp.float32), y32)
    a = a / lengths.astype(jnp.float32)[:, None]
    moved = _dot(state.mix_drift[order].T, a) * _dot(basis.astype(jnp.float32), y32)
    moved = jnp.abs(jnp.sum(moved, axis=0))
    sample = jnp.max(jnp.where(alive, moved, 0.0)) + jnp.max(jnp.abs(state.frame_drift))
    largest = jnp.max(jnp.where(alive, jnp.abs(d), 0.0))
    error = eps * (_SAFETY * (sample.astype(dtype) + 1) + largest) + left
    values = jnp.where(alive, d, -jnp.inf)

    status = jnp.where(error <= tolerance, Status.OK, Status.INACCURATE)
    status = jnp.where(left <= 500 * eps, status, Status.NOT_CONVERGED)
    invalid = jnp.any(jnp.isnan(state.log_scales) | jnp.isposinf(state.log_scales))
    status = jnp.where(invalid, Status.INVALID, status).astype(jnp.int8)
    values = jnp.where(invalid, jnp.nan, values)
    error = jnp.where(invalid, jnp.nan, error)
    return values, error, jnp.where(invalid, 0, zeros), status, state.log_scales


def product_log_singular_values(
    factors: Float[Array, "layers n n"], *, tolerance: float = 1e-9
) -> ProductSpectrum:
    """All singular values of A_L … A_2 A_1, each to full relative accuracy.

    Parameters
    ----------
    factors
        The square matrices A_1 … A_L, the one that is applied first first.
    tolerance
        The status is INACCURATE where `error` is larger.

    Accuracy
    --------
    `error` is measured, not bounded: the rounding of every layer is sampled, carried along to
    first order through all that follows, and multiplied by 64. The factors count as exact.
    A direction that a factor maps to less than rounding leaves of it counts as mapped to zero.

    Factors are multiplied together, 16 at most, while the logarithms of their scales are
    expected to spread by less than 5. Where `error` then misses the tolerance, it is done again
    with each factor by itself (not under `jax.jit` or `jax.vmap`).

    Raises
    ------
    ValueError
        If there is no factor or the factors are not square.
    """
    factors = jnp.asarray(factors)
    shape = factors.shape
    if len(shape) != 3 or 0 in shape or shape[1] != shape[2]:
        raise ValueError(
            f"`factors`: must be at least one square matrix, shape [layers, n, n]; got {shape}"
        )
    if not jnp.issubdtype(factors.dtype, jnp.floating):
        raise ValueError(f"`factors`: must be real floating-point numbers; got {factors.dtype}")
    limit = jnp.asarray(tolerance, factors.dtype)
    longest = lambda count: jnp.asarray(count, jnp.int32)
    if isinstance(factors, Tracer):
        return _product_spectrum(factors, limit, longest(_LONGEST))[0]
    with one_thread():
        found, joined = jax.block_until_ready(_product_spectrum(factors, limit, longest(_LONGEST)))
        if joined and found.error > limit:
            # A factor unlike those before it: none are multiplied together.
            again, _ = jax.block_until_ready(_product_spectrum(factors, limit, longest(1)))
            found = again if again.error < found.error else found
    return found


@eqx.filter_jit
@alone
def _product_spectrum(factors, tolerance, longest) -> tuple[ProductSpectrum, Bool[Array, ""]]:
    """The spectrum, and whether any factors were multiplied together."""
    layers, n, _ = factors.shape
    state = start(generic_frame(n, factors.dtype))

    def turn(carry, factor):
        state, product, since, cadence, rate, joined = carry
        columns = jnp.max(jnp.abs(factor), axis=0)
        largest = jnp.max(columns)
        largest = jnp.where(largest > 0, largest, 1.0).astype(factor.dtype)
        columns = columns / largest
        # Columns of very different size come first: a product would mix and lose them.
        uneven = jnp.min(columns) < _UNEVEN
        split = jnp.where(uneven & (columns > 0), columns, 1.0)

        def stretched(state):
            state = step(state, columns[:, None] * product)
            return state, state.frame

        state, product = jax.lax.cond(uneven, stretched, lambda s: (s, product), state)
        product = _dot(factor / largest / split[None], product)

        def factorised(state):
            after = step(state, product)
            spread = _spread(after.log_scales - state.log_scales) / (since + 1).astype(factor.dtype)
            # Layers may be given as several factors, some of which spread nothing.
            expected = jnp.maximum(jnp.maximum(spread, _FORGET * rate), 0.1)
            most = jnp.minimum(2 * cadence, longest).astype(factor.dtype)
            new = jnp.clip(_LOSS / expected, 1, most)
            return after, after.frame, 0 * since, new.astype(jnp.int32), expected

        waits = lambda state: (state, product, since + 1, cadence, rate)
        state, *rest = jax.lax.cond(since + 1 >= cadence, factorised, waits, state)
        log_scales = state.log_scales + jnp.log(largest)
        state = eqx.tree_at(lambda s: s.log_scales, state, log_scales)
        return (state, *rest, joined | (cadence > 1)), None

    one = jnp.asarray(1, jnp.int32)
    rate = jnp.asarray(0, factors.dtype)
    begin = (state, state.frame, 0 * one, one, rate, jnp.asarray(False))
    (state, product, *_, joined), _ = jax.lax.scan(turn, begin, factors)
    values, error, zeros, status, log_scales = finish(state, product, tolerance)
    return ProductSpectrum(values, error, zeros, status, log_scales / float(layers)), joined


def _spread(growth: Float[Array, " p"]) -> Float[Array, ""]:
    """The range of the logs by which directions that are not dead grew."""
    alive = jnp.isfinite(growth)
    high = jnp.max(jnp.where(alive, growth, -jnp.inf))
    low = jnp.min(jnp.where(alive, growth, jnp.inf))
    return jnp.where(jnp.any(alive), high - low, 0.0).astype(growth.dtype)


def _factorise(
    b: Float[Array, "rows columns"], dead: Bool[Array, " columns"], exact: bool
) -> tuple[Array, Array, Array, Array]:
    """Q and R of b, a sample of the rounding of b seen from Q, and which directions are
    mapped to zero (now, or already before)."""
    rows, columns = b.shape
    p = min(rows, columns)
    sizes = jnp.max(jnp.abs(b), axis=1)
    order = jnp.argsort(-sizes)

    def full(_):
        q, r = qr(b[order])
        r, signs = _upright(r)
        threshold = 8 * columns * float(jnp.finfo(b.dtype).eps) * sizes[order[:p]]
        gone = jax.lax.cummax(((jnp.diagonal(r) <= threshold) | dead[:p]).astype(jnp.int32)) > 0
        q = jnp.zeros_like(q).at[order].set(q * signs[None], unique_indices=True)
        q = jnp.where(gone[None], 0.0, q)
        noise = _dot(q.astype(jnp.float32).T, _rounding(b))
        return q, _without(r, gone), noise, gone

    if rows < columns or exact:
        return full(None)
    r32 = _upright(triangle(b.astype(jnp.float32)[order]))[0]

    def fast(_):
        r = _without(r32, dead).astype(b.dtype)
        q = divide_upper(b, r)
        q = jnp.where(dead[None], 0.0, q)
        # Rows are of similar size here, and the rounding has no preferred direction.
        noise = _rounding(q[:p]) * jnp.sqrt(jnp.sum(r32**2, axis=0))[None]
        return q, r, noise, dead

    good = jnp.all((jnp.diagonal(r32) > _FAST * r32[0, 0]) | dead)
    return jax.lax.cond(good, fast, full, None)


def _upright(r: Float[Array, "p columns"]) -> tuple[Array, Array]:
    """R with a diagonal that is not negative, and the signs that did it."""
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return r * signs[:, None], signs


def _without(r: Float[Array, "p columns"], dead: Bool[Array, " p"]) -> Float[Array, "p columns"]:
    """R with the rows of dead directions replaced by those of the identity."""
    return jnp.where(dead[:, None], jnp.eye(*r.shape, dtype=r.dtype), jnp.triu(r))


def _ratio(to: Array, of: Array, dtype=None) -> Array:
    """exp(to_j − of_i), upper triangular, with zeros for dead directions j."""
    gap = jnp.where(jnp.isneginf(to)[None], -jnp.inf, to[None] - of[:, None])
    gap = jnp.minimum(gap, _FAR)
    gap = gap if dtype is None else gap.astype(dtype)
    upper = jnp.triu(jnp.ones(gap.shape, bool)) if of.shape[0] <= to.shape[0] else True
    diagonal = jnp.eye(*gap.shape, dtype=bool)
    return jnp.where(diagonal, 1.0, jnp.where(upper, jnp.exp(gap), 0.0)).astype(gap.dtype)


def _rounding(x: Array) -> Float[Array, "*shape"]:
    """The last bits of x, scaled to a relative size of at most 1/2."""
    kept = jax.lax.reduce_precision(x, 11 if x.dtype == jnp.float64 else 8, _CUT)
    return ((x - kept) * 2.0**_CUT).astype(jnp.float32)


def _aligned(noise: Float[Array, "p columns"], inverse: Float[Array, "p p"]) -> Array:
    """The same noise with signs that keep the diagonal of noise · inverse from being small by
    chance; each row has one random sign."""
    signs = jnp.sign(inverse.T) * jnp.where(jnp.diagonal(noise) < 0, -1.0, 1.0)[:, None]
    p = len(inverse)
    square = noise[:, :p]
    square = jnp.where(signs == 0, square, signs * jnp.abs(square)).astype(noise.dtype)
    return square if noise.shape[1] == p else jnp.concatenate([square, noise[:, p:]], axis=1)


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _triangular_product(s: Array, t: Array) -> Array:
    """S T of two upper triangular matrices, in blocks if they are square and large."""
    n = s.shape[0]
    if s.shape != t.shape or n < 64:
        return _dot(s, t)
    ends = [n * i // 4 for i in range(5)]
    rows = []
    for i, top in enumerate(ends[:-1]):
        here = slice(top, ends[i + 1])
        blocks = [
            _dot(s[here, top : ends[k + 1]], t[top : ends[k + 1], ends[k] : ends[k + 1]])
            for k in range(i, 4)
        ]
        empty = jnp.zeros((ends[i + 1] - top, top), s.dtype)
        rows.append(jnp.concatenate([empty, *blocks], axis=1))
    return jnp.concatenate(rows, axis=0)


def _cap(dtype) -> float:
    """A gap of logs whose double does not overflow."""
    return 0.45 * math.log(float(jnp.finfo(dtype).max))


def _sorted(y: Array, d: Array) -> tuple[Array, Array, Array, Array]:
    """Unit columns and their logs in descending order; their former lengths, and the order."""
    lengths = jnp.sqrt(jnp.sum(y**2, axis=0))
    d = d + jnp.log(lengths)
    order = jnp.argsort(-d)
    lengths = lengths[order]
    return y[:, order] / lengths[None], d[order], lengths, order


def _swept(r: Float[Array, "p p"], d: Float[Array, " p"]) -> tuple[Array, Array]:
    """(R e^d)ᵀ as columns times scales."""
    diagonal = jnp.diagonal(r)
    return (r / diagonal[:, None] * _ratio(d, d)).T, d + jnp.log(jnp.abs(diagonal))


def _rotated(
    y: Float[Array, "p p"], d: Float[Array, " p"], alive: Bool[Array, " p"], tolerance: float
) -> tuple[Array, Array, Array, Array]:
    """Orthogonal columns from Y e^d by rotations; with the change still to come, and steps.

    Dead columns, which come last, are not turned against each other.
    """
    eye = jnp.eye(len(d), dtype=y.dtype)
    pairs = (alive[:, None] | alive[None]) & (eye == 0)
    upper = jnp.triu(jnp.ones(eye.shape, bool))
    cap = _cap(y.dtype)

    def turn(carry):
        y, d, _, steps = carry
        g = jnp.where(pairs, _dot(y.T, y), 0.0)
        gap = jnp.clip(d[None] - d[:, None], -cap, cap)
        u = jnp.expm1(2 * gap) / 2
        root = jnp.sqrt(u * u + g * g * jnp.exp(2 * gap))
        below = u + jnp.where(upper, -root, root)
        # The scaled tangent of each pair's Jacobi angle, as if it were the only pair.
        c = jnp.where(below == 0, 0.0, g / jnp.where(below == 0, 1.0, below))
        left = jnp.max(jnp.abs(jnp.sum(g * c, axis=0))) / 2
        half = c / (1 + jnp.sqrt(1 + jnp.maximum(-c * c.T, 0.0)))
        norm = jnp.max(jnp.sum(jnp.abs(half), axis=0))
        half = half * jnp.where(norm > 0.7, 0.7 / norm, 1.0)
        # The Cayley transform is orthogonal in the scaled coordinates, whatever the angles.
        turned = solve((eye - half).T, y.T).T
        y, d, _, _ = _sorted(2 * turned - y, d)
        return y, d, left, steps + 1

    start = (y, d, jnp.asarray(jnp.inf, y.dtype), jnp.asarray(0))
    return jax.lax.while_loop(lambda c: (c[2] > tolerance) & (c[3] < _STEPS), turn, start)
