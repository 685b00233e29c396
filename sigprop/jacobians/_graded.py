"""All singular values of a deep product to full relative accuracy, however ill conditioned."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from sigprop.networks import divide_upper, qr, solve, solve_upper, triangle, upright
from theory import Status

# Notation: the product of the factors so far is J = Q e^d T, with Q well conditioned, d the
# logs of its scales, T upper triangular with unit diagonal. To first order the exact product
# is Q (1 + X) e^d T + Q e^d dT, where X (strictly lower triangular) and dT, both float32 and
# in units of eps, are the effects of rounding. The part of X above the diagonal belongs to dT.
# Rounding errors have known sizes but unknown signs: X and dT are kept for several draws of them.

_SAMPLES = 3
"""Draws of the signs of rounding errors; all of them are rarely small by chance."""
_SAFETY = 7.0
"""Ratio of the reported error to that of the largest sample."""
_SIZE = 0.25
"""Standard deviation of the rounding error of a dot product aᵀb, in eps |a| |b|."""
_FIRST_ORDER = 0.1
"""If rounding changes anything by more than this fraction, the error is unknown."""
_FLOOR = 1e-20
"""Least size of X: smaller entries may have been lost, and grow."""
_FAST = 1e-4
"""Scales above this (relative to the first) allow the factorisation in float32."""
_STEPS = 60
_FAR = 80.0


class Graded(eqx.Module):
    """The product so far, in factors that neither overflow nor underflow."""

    frame: Float[Array, "rows p"]
    """Q; columns are zero for directions that were mapped to zero."""
    log_scales: Float[Array, " p"]
    """d; −inf for directions that were mapped to zero."""
    mix: Float[Array, "p columns"]
    """T."""
    frame_drift: Float[Array, "samples p p"]
    """X."""
    mix_drift: Float[Array, "samples p columns"]
    """dT."""
    largest_drift: Float[Array, ""]
    """The largest entry of X so far."""
    log_drift: Float[Array, ""]
    """Σ over the steps of max d²: d is rounded at each, by eps of its size."""
    unsure: Bool[Array, ""]
    """A direction counts as mapped to zero, but rounding may have hidden it."""
    count: UInt32[Array, ""]
    """Number of steps."""


def start(frame: Float[Array, "rows p"]) -> Graded:
    """The empty product, acting on the columns of an orthonormal frame."""
    p = frame.shape[1]
    eye, zero = jnp.eye(p, dtype=frame.dtype), jnp.zeros((), jnp.float32)
    drift = jnp.zeros((_SAMPLES, p, p), jnp.float32)
    scales, no, count = jnp.zeros(p, frame.dtype), jnp.zeros((), bool), jnp.zeros((), jnp.uint32)
    return Graded(frame, scales, eye, drift, drift, zero, zero, no, count)


def generic_frame(size: int, dtype: Any) -> Float[Array, "{size} {size}"]:
    """A fixed random orthonormal frame.

    Whatever the factors map to zero shows in the last columns, where `step` looks for it.
    """
    gaussian = jax.random.normal(jax.random.key(0), (size, size), dtype)
    return qr(gaussian)[0]


def step(
    state: Graded,
    product: Float[Array, "rows p"],
    noise: Float[Array, " rows"] | None = None,
    *,
    last: bool = False,
) -> Graded:
    """Factorise A Q = Q' R, the image of the frame under one more factor.

    Convention: R is computed in float32 from rows that are sorted by size, and counts as exact.
    Q' = A Q R⁻¹ is then orthonormal to single precision, which is enough. If R is too ill
    conditioned for that, or in the `last` step, both have the precision of the product. `noise`
    is the rounding error of each row of A Q in units of eps, if it exceeds that of one product.
    """
    size = jnp.max(jnp.abs(product))
    size = jnp.where(size > 0, size, 1.0).astype(product.dtype)
    before = state.log_scales
    excess = 0.0 if noise is None else noise / size
    dead = jnp.isneginf(before)
    q, r, rough, dead, unsure = _factorise(product / size, excess, dead, last)
    p, columns = r.shape
    diagonal = jnp.diagonal(r)
    grown = jnp.log(diagonal)
    after = jnp.where(dead, -jnp.inf, before[:p] + (grown + jnp.log(size)))
    after = jnp.where(jnp.isfinite(size), after, jnp.nan)  # also where all are zero already
    gap = _gap(before, before[:p])
    unit, cut = _scaled(r, gap, grown)
    mix = _triangular_product(unit, state.mix)

    # R = Δ U, Δ its diagonal: R X R⁻¹ = Δ U X U⁻¹ Δ⁻¹.
    u = (r / diagonal[:, None]).astype(jnp.float32)
    shape = (_SAMPLES, p, columns)
    fresh = (rough / diagonal).astype(jnp.float32)[None, :, None] * _draws(2 * state.count, shape)
    inverse = _inverse_upper(u[:, :p])
    fall = jnp.exp(jnp.minimum(grown[:, None] - grown[None], _FAR).astype(jnp.float32))
    ratio = jnp.exp(jnp.minimum(gap, _FAR)).astype(jnp.float32)
    unit32, mix32 = unit.astype(jnp.float32), mix.astype(jnp.float32)
    sizes = jnp.abs(unit32) * (1 + jnp.minimum(jnp.abs(gap), _FAR) / 4).astype(jnp.float32)
    own = _triangular_product(sizes, jnp.abs(state.mix).astype(jnp.float32))
    own = own[None] * _draws(2 * state.count + 1, (_SAMPLES, *own.shape)) / 2

    def carried(sample):
        """One draw of X and dT after this factor."""
        x, t, fresh, own = sample
        moved = _upper_lower(u, x) + fresh
        drift = jnp.where(dead[None] | dead[:, None], 0.0, _dot(moved[:, :p], inverse))
        below = jnp.tril(drift * fall, -1)
        least = jnp.tril(jnp.where(below < 0, -_FLOOR, _FLOOR), -1).astype(jnp.float32)
        below = jnp.where(jnp.abs(below) < _FLOOR, least, below)
        moved_mix = _triangular_product(unit32, t)
        moved_mix += _triangular_product(jnp.triu(drift) * ratio[:, :p], mix32) + own
        if columns > p:
            rest = moved[:, p:] - _dot(drift, u[:, p:])
            rest = jnp.where(dead[:, None], 0.0, rest) * ratio[:, p:]
            moved_mix += _dot(rest, state.mix[p:].astype(jnp.float32))
        return below, moved_mix

    # One after the other: programs with a copy for each draw take twice as long to compile.
    samples = (state.frame_drift, state.mix_drift, fresh, own)
    below, mix_drift = jax.lax.map(carried, samples)
    largest = jnp.maximum(state.largest_drift, jnp.max(jnp.abs(below), initial=0.0))
    largest = jnp.where(cut, jnp.inf, largest)
    size_of_logs = jnp.max(jnp.where(dead, 0.0, jnp.abs(after)), initial=0.0).astype(jnp.float32)
    return Graded(
        q,
        after,
        mix,
        below,
        mix_drift,
        largest,
        state.log_drift + size_of_logs**2,
        state.unsure | unsure,
        state.count + 1,
    )


def finish(
    state: Graded,
    product: Float[Array, "rows p"],
    tolerance: float | Float[Array, ""],
    noise: Float[Array, " rows"] | None = None,
    *,
    believed: Bool[Array, ""] | bool = True,
) -> tuple[Float[Array, " p"], Float[Array, ""], Int[Array, ""], Int[Array, ""], Array]:
    """Compute singular values from the product in factors.

    Returns the logs of the singular values, their error, the number of zeros, the status, and
    log_scales of the QR factorisation of the whole product. The method is two graded QR sweeps,
    then simultaneous Jacobi rotations of all pairs until the remaining changes are below
    rounding. A direction that rounding hides counts as zero; unless that is `believed`, the error
    is then infinite.

    References
    ----------
    Demmel and Veselić 1992, theorem 3.1 (one-sided Jacobi keeps relative accuracy).
    """
    state = step(state, product, noise, last=True)
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
    y, d, _, sorting = _sorted(*_swept(r, d))
    y, d, _, _ = _sorted(*_swept(triangle(y), d))
    alive = jnp.arange(len(d)) < len(d) - zeros
    y, d, left, _ = _rotated(y, d, alive, 500 * eps)

    # d log s = yᵀ dTᵀ a with y the right singular vector and Tᵀ a = y.
    y32 = jnp.zeros_like(y).at[sorting].set(y).astype(jnp.float32)
    a = solve_upper(r.astype(jnp.float32), y32)
    own = jnp.sqrt(jnp.sum(a**2, axis=0))
    a = a / lengths.astype(jnp.float32)[:, None]
    seen = _dot(basis.astype(jnp.float32), y32)
    moved = [jnp.sum(_dot(t[order].T, a) * seen, axis=0) for t in state.mix_drift]
    worst = jnp.max(jnp.abs(jnp.stack(moved)), axis=0)
    sample = jnp.max(jnp.where(alive, worst, 0.0)) + jnp.max(jnp.abs(state.frame_drift))
    own = jnp.max(jnp.where(alive, own, 0.0)) + jnp.sqrt(state.log_drift)
    largest = jnp.max(jnp.where(alive, jnp.abs(d), 0.0))
    error = eps * (_SAFETY * sample.astype(dtype) + 4 * own.astype(dtype) + 2 * largest + 4) + left
    known = (error < _FIRST_ORDER) & (eps * state.largest_drift < _FIRST_ORDER)
    error = jnp.where(known, error, jnp.inf)
    values = jnp.where(alive, d, -jnp.inf)

    status = jnp.where(error <= tolerance, Status.OK, Status.INACCURATE)
    status = jnp.where(left <= 500 * eps, status, Status.NOT_CONVERGED)
    doubted = state.unsure & ~jnp.asarray(believed)
    error = jnp.where(doubted, jnp.inf, error)
    status = jnp.where(doubted, Status.INACCURATE, status)
    invalid = jnp.any(jnp.isnan(state.log_scales) | jnp.isposinf(state.log_scales))
    status = jnp.where(invalid, Status.INVALID, status).astype(jnp.int8)
    values, error = (jnp.where(invalid, jnp.nan, x) for x in (values, error))
    return values, error, jnp.where(invalid, 0, zeros), status, state.log_scales


def _gap(to: Array, of: Array) -> Array:
    """to_j − of_i; −∞ for dead directions j, except for i = j."""
    gap = jnp.where(jnp.isneginf(to)[None], -jnp.inf, to[None] - of[:, None])
    return jnp.where(jnp.eye(*gap.shape, dtype=bool), 0.0, gap)


def _scaled(r: Array, gap: Array, grown: Array) -> tuple[Array, Bool[Array, ""]]:
    """e^{−d'} R e^d for d' = d + log diag R, and whether it had to be truncated."""
    p, columns = r.shape
    diagonal = jnp.diagonal(r)
    rise = jnp.maximum(grown[None] - grown[:, None], 0.0)
    over = jnp.maximum(diagonal[:, None], diagonal[None])
    if columns > p:
        rise = jnp.pad(rise, ((0, 0), (0, columns - p)))
        over = jnp.concatenate([over, jnp.broadcast_to(diagonal[:, None], (p, columns - p))], 1)
    # Divide by the larger of two diagonals: where they rise by much, the other one overflows.
    power = gap + rise
    most = _most(r.dtype)
    cut = jnp.any(jnp.triu((power > most) & (r != 0)))
    unit = r / over * jnp.exp(jnp.minimum(power, most))
    return jnp.where(jnp.eye(p, columns, dtype=bool), 1.0, unit), cut


def _factorise(
    b: Float[Array, "rows columns"],
    noise: Float[Array, " rows"] | float,
    dead: Bool[Array, " columns"],
    exact: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    """Q and R of b, with error information.

    The further results are the rounding error of each row of R, which directions are mapped to
    zero (now or before), and whether any of these is zero because of rounding alone.
    """
    rows, columns = b.shape
    p = min(rows, columns)
    order = jnp.argsort(-jnp.max(jnp.abs(b), axis=1))

    def rounding(q, r, extra):
        """For each row of b, then transformed by Q."""
        by_row = _norm(q * _norm(r, axis=1)[None], axis=1)
        by_row = jnp.maximum(jnp.maximum(_SIZE * by_row, noise), extra)
        return _norm(q * by_row[:, None], axis=0)

    def full(_):
        eps = float(jnp.finfo(b.dtype).eps)
        q, r = qr(b[order])
        r, signs = upright(r)
        q = jnp.zeros_like(q).at[order].set(q * signs[None], unique_indices=True)
        # Reflections may mix rows of different size in spite of their order.
        off = _norm(b - _times_upper(q, r), axis=1) / (math.sqrt(columns) * eps)
        rough = rounding(q, r, off)
        least = (8 + 4 * math.sqrt(rows)) * eps * rough
        gone = jax.lax.cummax(((jnp.diagonal(r) <= least) | dead[:p]).astype(jnp.int32)) > 0
        # Rows of zeros and directions that were already dead limit the number of live ones; that R
        # has a row of zeros may be due to rounding.
        alive = jnp.minimum(jnp.sum(jnp.any(b != 0, axis=1)), columns - jnp.sum(dead))
        unsure = jnp.sum(gone) > p - jnp.minimum(alive, p)
        return (
            jnp.where(gone[None], 0.0, q),
            _without(r, gone),
            jnp.where(gone, 0.0, rough),
            gone,
            unsure,
        )

    if rows < columns or exact:
        return full(None)
    r32 = upright(triangle(b.astype(jnp.float32)[order]))[0]

    def fast(_):
        r = _without(r32, dead).astype(b.dtype)
        q = divide_upper(b, r)
        q = jnp.where(dead[None], 0.0, q)
        # As in `rounding`; here nothing is so small that its square underflows.
        squares = q**2
        by_row = jnp.maximum(_SIZE**2 * _dot(squares, jnp.sum(r**2, axis=1)), noise**2)
        rough = jnp.sqrt(_dot(by_row, squares))
        return q, r, jnp.where(dead, 0.0, rough), dead, jnp.zeros((), bool)

    good = jnp.all((jnp.diagonal(r32) > _FAST * r32[0, 0]) | dead)
    return jax.lax.cond(good, fast, full, None)


def _norm(x: Array, axis: int) -> Array:
    """The root of a sum of squares, without overflow or underflow."""
    most = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    x = x / jnp.where(most > 0, most, 1.0)
    return jnp.squeeze(most, axis) * jnp.sqrt(jnp.sum(x**2, axis=axis))


def _draws(count: Array, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Random signs, with sizes from 1/2 to 3/2."""
    x = jax.lax.iota(jnp.uint32, math.prod(shape)) + count * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    sizes = 0.5 + (x >> 1).astype(jnp.float32) * jnp.float32(2.0**-31)
    return jnp.where((x & 1) == 0, sizes, -sizes).reshape(shape)


def _without(r: Float[Array, "p columns"], dead: Bool[Array, " p"]) -> Float[Array, "p columns"]:
    """R with the rows of dead directions replaced by those of the identity."""
    return jnp.where(dead[:, None], jnp.eye(*r.shape, dtype=r.dtype), jnp.triu(r))


def _ratio(to: Array, of: Array) -> Array:
    """exp(to_j − of_i), upper triangular."""
    return jnp.triu(jnp.exp(jnp.minimum(to[None] - of[:, None], _FAR)))


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


def _inverse_upper(u: Array) -> Array:
    """U⁻¹ of an upper triangular matrix, by halves; substitution would be slower."""
    n = len(u)
    if n < 128:
        return solve_upper(u, jnp.eye(n, dtype=u.dtype))
    half = n // 2
    first, second = _inverse_upper(u[:half, :half]), _inverse_upper(u[half:, half:])
    corner = -_dot(first, _dot(u[:half, half:], second))
    return jnp.block([[first, corner], [jnp.zeros_like(corner.T), second]])


def _upper_lower(u: Array, x: Array) -> Array:
    """U X of an upper and a lower triangular matrix, in blocks if they are square and large."""
    n = u.shape[0]
    if u.shape != x.shape or n < 64:
        return _dot(u, x)
    ends = [n * i // 4 for i in range(5)]
    parts = list(itertools.pairwise(ends))
    return jnp.concatenate(
        [
            jnp.concatenate([_dot(u[i:k, max(i, j) :], x[max(i, j) :, j:m]) for j, m in parts], 1)
            for i, k in parts
        ],
        axis=0,
    )


def _times_upper(q: Array, r: Array) -> Array:
    """Q R, R upper triangular, in blocks if it is square and large."""
    n = r.shape[0]
    if r.shape[1] != n or n < 64:
        return _dot(q, r)
    ends = [n * i // 4 for i in range(5)]
    parts = itertools.pairwise(ends)
    return jnp.concatenate([_dot(q[:, :m], r[:m, j:m]) for j, m in parts], axis=1)


def _cap(dtype) -> float:
    """The largest gap of logs whose double does not overflow."""
    return 0.45 * math.log(float(jnp.finfo(dtype).max))


def _most(dtype) -> float:
    """The largest power of e allowed in the mixing matrix."""
    return _FAR if dtype == jnp.float32 else 600.0


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
    """Orthogonalise the columns of Y e^d by rotations.

    Also returns the change still to come, and the number of steps. Dead columns, which are last,
    are not rotated against each other.
    """
    eye = jnp.eye(len(d), dtype=y.dtype)
    pairs = (alive[:, None] | alive[None]) & (eye == 0)
    upper = jnp.triu(jnp.ones(eye.shape, bool))
    cap = _cap(y.dtype)

    def once(carry):
        y, d, _, steps = carry
        g = _dot(y.T, y)
        # Exactly symmetric: close pairs rotate by large angles even for tiny g.
        g = jnp.where(pairs, (g + g.T) / 2, 0.0)
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
        rotated = solve((eye - half).T, y.T).T
        y, d, _, _ = _sorted(2 * rotated - y, d)
        return y, d, left, steps + 1

    start = (y, d, jnp.asarray(jnp.inf, y.dtype), jnp.asarray(0))
    return jax.lax.while_loop(lambda c: (c[2] > tolerance) & (c[3] < _STEPS), once, start)
