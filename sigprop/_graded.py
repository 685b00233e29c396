"""All singular values of a deep product to full relative accuracy, whatever its condition."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from theory import Status

# Notation: the product of the factors so far is J = Q e^d T, with Q well conditioned, d the
# logs of its scales, T upper triangular with unit diagonal. To first order the exact product
# is (Q + F) e^d T + Q e^d dT, where F and dT (in units of eps) come from rounding.

_CUT = 12
"""Bits of a number that are kept when its last bits serve as a sample of rounding."""
_SAFETY = 32.0
"""The reported error over that of the sample: rounding of a sum of products is larger than
that of its result, and one sample can be small by chance."""
_FAST = 1e-4
"""Scales above this (relative to the first) let the factorisation be done in float32."""
_STEPS = 20
_FAR = 80.0


class Graded(eqx.Module):
    """The product so far, in factors that neither over- nor underflow."""

    frame: Float[Array, "rows p"]
    """Q; columns of directions that were mapped to zero are zero."""
    drift: Float[Array, "rows p"]
    """F, float32, in units of eps."""
    log_scales: Float[Array, " p"]
    """d; −inf for directions that were mapped to zero."""
    mix: Float[Array, "p columns"]
    """T."""
    mix_drift: Float[Array, "p columns"]
    """dT, float32, in units of eps."""


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
    rows, p = frame.shape
    eye = jnp.eye(p, dtype=frame.dtype)
    zero = jnp.zeros((rows, p), jnp.float32)
    return Graded(frame, zero, jnp.zeros(p, frame.dtype), eye, jnp.zeros((p, p), jnp.float32))


def step(
    state: Graded,
    product: Float[Array, "rows p"],
    drift: Float[Array, "rows p"],
    *,
    last: bool = False,
) -> Graded:
    """Factorise A Q and A F, the images of the frame and its drift under one more factor.

    Convention: Q' R = A Q. R is found in float32 from rows that are sorted by size, and
    Q' = A Q R⁻¹, so that R counts as exact and Q' is orthonormal to single precision; where R
    is too ill conditioned for that, both are found in the precision of the product.
    """
    size = jnp.max(jnp.abs(product))
    size = jnp.where(size > 0, size, 1.0).astype(product.dtype)
    b = product / size
    h = (drift / size.astype(drift.dtype)).astype(jnp.float32) + _rounding(b)
    q, r, dead = _factorise(b, jnp.isneginf(state.log_scales), last)
    p = r.shape[0]
    diagonal = jnp.diagonal(r)
    before = state.log_scales
    after = jnp.where(dead, -jnp.inf, before[:p] + jnp.log(jnp.abs(diagonal)) + jnp.log(size))

    unit = r / diagonal[:, None] * _ratio(before, before[:p])
    mix = _triangular_product(unit, state.mix)
    # What the drift adds inside the flag of frames goes to T, the rest rides along.
    r32, q32 = r.astype(jnp.float32), q.astype(jnp.float32)
    k = jax.lax.linalg.triangular_solve(r32[:, :p], h[:, :p], left_side=False, lower=False)
    k = jnp.where(dead[None], 0.0, k)
    inside = _dot(q32.T, k)
    inner = jnp.triu(inside)
    outer = jnp.tril(inside, -1)
    # The same in exact arithmetic; a square frame needs no difference of large numbers.
    rides = _dot(q32, outer) if q.shape[0] == p else k - _dot(q32, inner)
    ratio = _ratio(after, after, jnp.float32)
    mix_drift = _triangular_product(unit.astype(jnp.float32), state.mix_drift)
    mix_drift = mix_drift + _triangular_product(inner * ratio, mix.astype(jnp.float32))
    if r.shape[1] > p:
        rest = _dot(q32.T, h[:, p:] - _dot(k, r32[:, p:])) * size.astype(jnp.float32)
        rest = rest * _ratio(before[p:], after, jnp.float32)
        mix_drift = mix_drift + _dot(rest, state.mix[p:].astype(jnp.float32))
    return Graded(q, rides, after, mix, mix_drift + _rounding(mix))


def finish(
    state: Graded, tolerance: float
) -> tuple[Float[Array, " p"], Float[Array, ""], Int[Array, ""], Int[Array, ""], Array]:
    """Logs of the singular values, their error, the number of zeros, the status, and log_scales
    of the QR factorisation of the whole product.

    Two graded QR sweeps, then simultaneous Jacobi rotations of all pairs until what is still
    to come is below rounding.

    References
    ----------
    Demmel and Veselić 1992, theorem 3.1 (one-sided Jacobi keeps relative accuracy).
    """
    state = step(state, state.frame, state.drift, last=True)
    dead = jnp.isneginf(state.log_scales)
    zeros = jnp.sum(dead)
    dtype = state.mix.dtype
    eps = float(jnp.finfo(dtype).eps)
    low = jnp.min(jnp.where(dead, jnp.inf, state.log_scales))
    far = 4 * _cap(dtype)
    stand_in = jnp.where(jnp.isfinite(low), low, 0.0) - far
    d = jnp.where(dead, stand_in.astype(dtype), state.log_scales)

    first, d, lengths, order = _sorted(state.mix.T, d)
    basis, r = jnp.linalg.qr(first)
    y, d, _, turn = _sorted(*_swept(r, d))
    y, d, _, _ = _sorted(*_swept(jnp.linalg.qr(y, mode="r"), d))
    y, d, left, steps = _rotated(y, d, 500 * eps)

    # d log s = yᵀ dTᵀ a with y the right singular vector and Tᵀ a = y.
    y32 = jnp.zeros_like(y).at[turn].set(y).astype(jnp.float32)
    a = jax.lax.linalg.triangular_solve(r.astype(jnp.float32), y32, left_side=True, lower=False)
    a = a / lengths.astype(jnp.float32)[:, None]
    moved = _dot(state.mix_drift[order].T, a) * _dot(basis.astype(jnp.float32), y32)
    moved = jnp.abs(jnp.sum(moved, axis=0))
    alive = jnp.arange(len(d)) < len(d) - zeros
    inside = _dot(state.frame.astype(jnp.float32).T, state.drift)
    sample = jnp.max(jnp.where(alive, moved, 0.0)) + jnp.max(jnp.abs(inside))
    largest = jnp.max(jnp.where(alive, jnp.abs(d), 0.0))
    error = eps * (_SAFETY * (sample.astype(dtype) + 1) + largest) + jnp.minimum(left, 1e3)
    values = jnp.where(alive, d, -jnp.inf)

    status = jnp.where(error <= tolerance, Status.OK, Status.INACCURATE)
    status = jnp.where(left <= 500 * eps, status, Status.NOT_CONVERGED)
    invalid = jnp.any(jnp.isnan(state.log_scales) | jnp.isposinf(state.log_scales))
    status = jnp.where(invalid, Status.INVALID, status).astype(jnp.int8)
    values = jnp.where(invalid, jnp.nan, values)
    error = jnp.where(invalid, jnp.nan, error)
    return values, error, jnp.where(invalid, 0, zeros), status, state.log_scales


@eqx.filter_jit
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
    first order through all that follows, and multiplied by 32. The factors count as exact.
    A direction that a factor maps to less than rounding leaves of it counts as mapped to zero.
    """
    layers, n, _ = factors.shape
    # A generic frame: whatever the factors map to zero shows in the last columns.
    gaussian = jax.random.normal(jax.random.key(0), (n, n), factors.dtype)
    state = start(jnp.linalg.qr(gaussian)[0])

    def turn(state, factor):
        # Columns of very different size first: they would be mixed and lost.
        columns = jnp.max(jnp.abs(factor), axis=0)
        largest = jnp.max(columns)
        largest = jnp.where(largest > 0, largest, 1.0).astype(factor.dtype)
        columns = columns / largest
        uneven = jnp.min(columns) < 1e-3
        split = jnp.where(uneven, jnp.where(columns > 0, columns, 1.0), 1.0)

        def stretched(state):
            c = columns[:, None]
            return step(state, c * state.frame, c.astype(jnp.float32) * state.drift)

        state = jax.lax.cond(uneven, stretched, lambda state: state, state)
        a = factor / largest / split[None]
        b = jnp.matmul(a, state.frame, precision="highest")
        state = step(state, b, _dot(a.astype(jnp.float32), state.drift))
        return eqx.tree_at(lambda s: s.log_scales, state, state.log_scales + jnp.log(largest)), None

    state, _ = jax.lax.scan(turn, state, factors)
    values, error, zeros, status, log_scales = finish(state, tolerance)
    return ProductSpectrum(values, error, zeros, status, log_scales / layers)


def _factorise(
    b: Float[Array, "rows p"], dead: Bool[Array, " p"], exact: bool
) -> tuple[Float[Array, "rows p2"], Float[Array, "p2 p"], Bool[Array, " p2"]]:
    """Q and R of b, and which directions are mapped to zero (now, or already before)."""
    rows, columns = b.shape
    p = min(rows, columns)
    sizes = jnp.max(jnp.abs(b), axis=1)
    order = jnp.argsort(-sizes)
    sizes = sizes[order[:p]]

    def fast(_):
        r = _without(r32, dead[:p])
        q = jax.lax.linalg.triangular_solve(r[:, :p], b, left_side=False, lower=False)
        return jnp.where(dead[:p][None], 0.0, q), r, dead[:p]

    def full(_):
        q, r = jnp.linalg.qr(b[order])
        r, signs = _upright(r)
        q = q * signs[None]
        threshold = 8 * columns * float(jnp.finfo(b.dtype).eps) * sizes
        gone = jnp.abs(jnp.diagonal(r)) <= threshold
        gone = jax.lax.cummax((gone | dead[:p]).astype(jnp.int32)) > 0
        q = jnp.zeros_like(q).at[order].set(q, unique_indices=True)
        return jnp.where(gone[None], 0.0, q), _without(r, gone), gone

    if rows < columns or exact:
        return full(None)
    r32 = _upright(jnp.linalg.qr(b.astype(jnp.float32)[order], mode="r").astype(b.dtype))[0]
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
    y: Float[Array, "p p"], d: Float[Array, " p"], tolerance: float
) -> tuple[Array, Array, Array, Array]:
    """Orthogonal columns from Y e^d by rotations; with the change still to come, and steps."""
    eye = jnp.eye(len(d), dtype=y.dtype)
    upper = jnp.triu(jnp.ones(eye.shape, bool))
    cap = _cap(y.dtype)

    def turn(carry):
        y, d, _, steps = carry
        g = _dot(y.T, y) * (1 - eye)
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
        turned = jnp.linalg.solve((eye - half).T, y.T).T
        y, d, _, _ = _sorted(2 * turned - y, d)
        return y, d, left, steps + 1

    start = (y, d, jnp.asarray(jnp.inf, y.dtype), jnp.asarray(0))
    return jax.lax.while_loop(lambda c: (c[2] > tolerance) & (c[3] < _STEPS), turn, start)
