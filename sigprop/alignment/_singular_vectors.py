"""Leading singular vectors of many matrices, with errors, without computing whole spectra.

Notation: s the singular values of W, u and v its left and right singular vectors, M = WᵀW.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from sigprop.networks import eigh, qr, svd
from theory import Status
from theory.numerics import as_array, check_count, check_kind, check_positive, cores, device_of

_BASIS = 64
"""Number of basis vectors in one cycle; larger eigenvalue problems are much slower on a CPU."""
_CYCLES = 40
_STEPS_AGAIN = 4
"""Number of blocks in the first cycle, if it starts from earlier vectors."""
_NOISE = 1e-2
"""Size of the random numbers that are added to these."""
_LARGE = 2**21
"""From this many numbers on, the matrices are worth one thread per core."""
_SPARE = 1
"""Number of extra vectors in a block, which detect a degeneracy."""
_SMALL = 96
"""Up to this size it is faster to compute all singular values."""
_ROUNDING = 8.0
"""Singular values closer than this many eps of the largest, times the root of the number of
rows or columns, count as equal: rounding of the products."""


class LeadingVectors(eqx.Module):
    """The `rank` leading singular values and vectors of each of L matrices."""

    values: Float[Array, "*layers rank"]
    """Descending."""
    left: Float[Array, "*layers m rank"]
    right: Float[Array, "*layers n rank"]
    error: Float[Array, "*layers"]
    """A bound on the sine of the angle between u_1 or v_1 and the exact one."""
    frame_error: Float[Array, "*layers"]
    """The same for the largest angle between the spans of the first `rank`."""
    status: Int[Array, "*layers"]
    """Status of the leading vectors. ABSENT: there is no leading direction, since the matrix is
    zero or its two largest singular values agree to rounding. INVALID: an entry is not finite."""
    frame_status: Int[Array, "*layers"]
    """Status of the span: ABSENT if s_rank and its successor agree to rounding."""
    next_right: Float[Array, "*layers n spare"]
    """The vectors found after the first `rank`, which give the gap; without an error."""


def leading_vectors(
    weights: Float[Array, "layers m n"],
    rank: int = 1,
    *,
    tolerance: float = 1e-2,
    start: LeadingVectors | None = None,
) -> LeadingVectors:
    """Compute the leading singular vectors of a stack of matrices.

    Parameters
    ----------
    weights
        L matrices of one shape.
    rank
        Number of leading vectors.
    tolerance
        Largest sine of the angle to the exact direction and span.
    start
        The result for similar matrices, such as the same layers some training steps earlier. The
        search starts there, which affects how long it takes and what it may miss.

    Raises
    ------
    ValueError
        If `rank` is not between 1 and the smaller side of the matrices, or `start` has another
        rank or other shapes.

    Accuracy
    --------
    By Wedin's theorem the sine of the angle is at most the norm of the residual WᵀU − V S over
    the gap to the next singular value; rounding is included in the residual. The gap is computed
    from the values found, so a direction that the start does not contain would be missed. A random
    start contains all directions; to earlier vectors random numbers of a hundredth of their size
    are added. INACCURATE means that rounding keeps the bound above the tolerance, NOT_CONVERGED
    that the iteration stopped.

    References
    ----------
    Musco and Musco (2015), arXiv 1504.05477, algorithm 2 (block Krylov iteration), restarted.
    Wedin (1972), Perturbation bounds in connection with singular value decomposition.
    """
    check_count("rank", rank)
    check_positive("tolerance", tolerance)
    if not isinstance(weights, Tracer):
        weights = as_array("weights", weights, "[layers, m, n]")
    m, n = weights.shape[1:]
    if rank > min(m, n):
        raise ValueError(
            f"`rank`: must be at most {min(m, n)}, the smaller side of the weights; got {rank}"
        )
    before = None
    if start is not None:
        check_kind("start", start, LeadingVectors, "LeadingVectors, of the same weights before")
        before = jnp.concatenate([start.right, start.next_right], axis=-1)
        if start.right.shape != (len(weights), n, rank):
            raise ValueError(
                f"`start`: must contain {rank} vectors of {n} numbers for {len(weights)} matrices; "
                f"got shape {start.right.shape}"
            )
    how = rank, float(tolerance)
    threads = min(cores(), len(weights)) if device_of(weights).platform == "cpu" else 1
    if isinstance(weights, Tracer) or threads < 2 or weights.size < _LARGE:
        return _leading(weights, before, *how)
    size = -(-len(weights) // threads)
    starts = [
        min(i * size, len(weights) - size) for i in range(threads)
    ]  # equal parts compile once
    pieces = lambda x: [None if x is None else x[i : i + size] for i in starts]
    with ThreadPoolExecutor(threads) as pool:
        run = lambda w, b: jax.block_until_ready(_leading(w, b, *how))
        found = list(pool.map(run, pieces(weights), pieces(before)))
    fresh = [i * size - start for i, start in enumerate(starts)]
    return jax.tree.map(
        lambda *x: jnp.concatenate([p[k:] for p, k in zip(x, fresh, strict=True)]), *found
    )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _leading(weights: Any, before: Any, rank: int, tolerance: float) -> LeadingVectors:
    m, n = weights.shape[1:]
    whole = min(m, n) <= _SMALL or rank + _SPARE > _BASIS // 4
    key = jax.random.key(0)

    def one(here):
        w, before = here
        finite = jnp.all(jnp.isfinite(w))
        size = jnp.max(jnp.abs(jnp.where(finite, w, 0)))
        zero = size == 0
        unit = jnp.where(finite & ~zero, w, jnp.eye(m, n, dtype=w.dtype))
        unit = unit / jnp.where(zero | ~finite, 1, size)
        if whole:
            left, values, right = svd(unit)
            found = left, values, right.T, jnp.zeros_like(values)
        else:
            found = _iterated(unit, before, rank, tolerance, key)
        return _judged(found, size, zero, finite, rank, tolerance)

    # On a CPU one after the other: each matrix then stays in the cache.
    in_turn, at_once = functools.partial(jax.lax.map, one), jax.vmap(one)
    return jax.lax.platform_dependent((weights, before), cpu=in_turn, default=at_once)


def _iterated(w: Array, before: Array | None, rank: int, tolerance: float, key: Any) -> tuple:
    """Block Krylov iteration: u, s, v and the residual norms of a whole block."""
    eps = jnp.finfo(w.dtype).eps
    n = w.shape[1]
    block = rank + _SPARE
    first = jax.random.normal(key, (n, block), w.dtype)
    if before is not None:
        first = jnp.where(jnp.isfinite(before), before, 0) + _NOISE * first / math.sqrt(n)
    first = qr(first)[0].T  # vectors are rows: products with rows are the fast ones
    times = functools.partial(jnp.matmul, precision="highest")
    each = lambda fn, rows: jnp.stack([fn(row) for row in rows])

    def cycle(carry, steps=_BASIS // block):
        def extend(i, pair):
            basis, x = pair
            x = each(lambda row: times(times(w, row), w), x)
            fresh = jax.random.normal(jax.random.fold_in(key, i), x.shape, w.dtype) / math.sqrt(n)
            scale = jnp.linalg.norm(x, axis=1)
            for _ in range(3):
                x = each(lambda row: row - times(times(basis, row), basis), x)
                q, r = qr(x.T)
                # If the span is complete, the rest is rounding, and not orthogonal.
                lost = jnp.abs(jnp.diagonal(r)) <= 1e3 * eps * scale
                x, scale = jnp.where(lost[:, None], fresh, q.T), jnp.ones_like(scale)
            return jax.lax.dynamic_update_slice_in_dim(basis, x, i * block, 0), x

        x, count = carry[0], carry[1]
        basis = jnp.zeros((steps * block, n), w.dtype).at[:block].set(x)
        basis, _ = jax.lax.fori_loop(1, steps, extend, (basis, x))
        image = times(basis, w.T)
        _, rotation = eigh(times(image, image.T))
        rotation = rotation[:, ::-1][:, :block].T
        right, left = times(rotation, basis), times(rotation, image)
        values = jnp.linalg.norm(left, axis=1)
        left = left / jnp.where(values > 0, values, 1)[:, None]
        rest = each(lambda row: times(row, w), left) - right * values[:, None]
        residual = jnp.linalg.norm(rest, axis=1)
        floor = _ROUNDING * math.sqrt(max(w.shape)) * eps * values[0]
        gaps = values[:-1] - values[1:] - residual[1:]
        # For the vectors above a gap, all of which count for the span.
        bound = lambda k: jnp.linalg.norm(residual[: k + 1]) / jnp.maximum(gaps[k], floor)
        done = jnp.maximum(bound(0), bound(rank - 1)) <= tolerance
        done = done | (jnp.max(residual[: rank + 1]) <= floor)
        return right, count + 1, done, left, values, residual

    empty = (
        jnp.zeros((block, w.shape[0]), w.dtype),
        jnp.zeros(block, w.dtype),
        jnp.full(block, jnp.inf, w.dtype),
    )
    carry = (first, jnp.zeros((), jnp.int32), jnp.zeros((), bool), *empty)
    if before is not None:
        carry = cycle(carry, _STEPS_AGAIN)
    unfinished = lambda carry: ~carry[2] & (carry[1] < _CYCLES)
    right, _, _, left, values, residual = jax.lax.while_loop(unfinished, cycle, carry)
    return left.T, values, right.T, residual


def _judged(found, size, zero, finite, rank, tolerance) -> LeadingVectors:
    left, values, right, residual = found
    eps = jnp.finfo(values.dtype).eps
    rounding = _ROUNDING * math.sqrt(max(len(left), len(right))) * eps * values[0]
    after = jnp.concatenate([values, jnp.zeros(1, values.dtype)])[1:]
    less = jnp.concatenate([residual, jnp.zeros(1, values.dtype)])[1:]

    def look(k):
        """Error and status of the span of the first k + 1."""
        moved = jnp.linalg.norm(residual[: k + 1])
        full = k + 1 == values.size  # the whole space: no gap is needed
        gap = values[k] if full else values[k] - after[k] - less[k]
        error = (moved + rounding) / jnp.maximum(gap, eps * values[0])
        error = jnp.minimum(error, 1)
        status = jnp.where(error <= tolerance, Status.OK, Status.INACCURATE)
        late = (error > tolerance) & (moved > rounding)
        status = jnp.where(late, Status.NOT_CONVERGED, status)
        status = jnp.where((gap <= rounding) & ~late, Status.ABSENT, status)
        status = jnp.where(zero, Status.ABSENT, status)
        status = jnp.where(finite, status, Status.INVALID).astype(jnp.int8)
        gone = (status == Status.ABSENT) | (status == Status.INVALID)
        return jnp.where(gone, jnp.nan, error), status

    error, status = look(0)
    frame_error, frame_status = look(rank - 1)
    scaled = jnp.where(finite, jnp.where(zero, 0, values[:rank] * size), jnp.nan)
    return LeadingVectors(
        scaled,
        left[:, :rank],
        right[:, :rank],
        error,
        frame_error,
        status,
        frame_status,
        right[:, rank : rank + _SPARE],
    )
