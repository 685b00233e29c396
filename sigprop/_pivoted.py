"""Factors of any kind as products of diagonal and well conditioned ones, with the error of that.

Notation: A 2^r' = 2^r M 2^c with whole r, c, the row scales r' of the factor before; M = L D U
up to permutations, from Gaussian elimination with complete pivoting.
"""

import math
from typing import NamedTuple

import numpy as np

_WORK = 3e7
"""Entries times columns up to which this is done: a pass over every matrix for each column."""
_EVEN = 1e2
"""Matrices of this condition are left as they are."""
_EXACT = 32
"""Rows up to which a rank is found exactly."""
_RANGE = 900
"""Powers of two that one diagonal factor may hold."""


class Split(NamedTuple):
    factors: np.ndarray
    """[count, n, n], the one that is applied first first."""
    log_scale: float
    """To be added to every log of a singular value."""
    error: float
    """Of every log, to first order; infinite where nothing is known."""


def split(factors: np.ndarray) -> Split | None:
    """The same product in factors that lose nothing, or None where that is too much work.

    A pivot counts as zero where the factor is singular, or one is that differs from it by rounding
    in each entry. Nothing is known where one is that small and neither can be shown.

    References
    ----------
    Demmel, Gu, Eisenstat, Slapničar, Veselić and Drmač 1999, section 3.
    """
    layers, n, _ = factors.shape
    if layers * n**3 > _WORK:
        return None
    rows, shift, error = np.zeros(n, int), 0, 0.0
    parts: list[np.ndarray] = []
    for a in factors.astype(float):
        mantissa, power = np.frexp(a)
        there = mantissa != 0
        power = np.where(there, power + rows[None], np.iinfo(np.int32).min)
        if not np.any(there):
            return Split(np.zeros((1, n, n)), 0.0, 0.0)
        rows = np.where(np.any(there, axis=1), np.max(power, axis=1), 0)
        columns = np.max(np.where(there, power - rows[:, None], -(10**6)), axis=0)
        columns = np.where(np.any(there, axis=0), columns, 0)
        inner = np.where(there, power - rows[:, None] - columns[None], 0)
        if np.min(inner) < -_RANGE:
            error = math.inf
        parts += _diagonal(columns)
        shift += int(np.max(columns))
        three, off = _eliminated(np.ldexp(mantissa, np.maximum(inner, -_RANGE)))
        parts += three
        error += off
    parts += _diagonal(rows)
    shift += int(np.max(rows))
    parts += [np.eye(n)] * (8 * layers - len(parts))  # one shape, mostly: few programs compile
    return Split(np.array(parts), shift * math.log(2), error)


def _diagonal(powers: np.ndarray) -> list[np.ndarray]:
    """2^(powers − max powers) in factors that do not underflow."""
    powers = powers - np.max(powers)
    count = -(-int(-np.min(powers)) // _RANGE)
    out = []
    for i in range(count):
        step = powers // (count - i)
        out.append(np.diag(np.ldexp(1.0, step)))
        powers = powers - step
    return out


def _eliminated(m: np.ndarray) -> tuple[list[np.ndarray], float]:
    """[U, D, L] of M and a bound on what their errors move in any log."""
    n, eps = len(m), np.finfo(float).eps
    values = np.linalg.svd(m, compute_uv=False)
    if values[0] < _EVEN * values[-1]:
        return [m], 0.0
    s, e = m.copy(), np.zeros((n, n))  # what is left, and its error
    at_row, at_column = np.arange(n), np.arange(n)
    left, up, pivots, off = np.eye(n), np.eye(n), np.zeros(n), 0.0
    off_left, off_up = np.zeros((n, n)), np.zeros((n, n))
    for k in range(n):
        i, j = np.unravel_index(np.argmax(np.abs(s[k:, k:])), (n - k, n - k))
        for swap, first, second in ((at_row, k, k + i), (at_column, k, k + j)):
            swap[[first, second]] = swap[[second, first]]
        for x in (s, e):
            x[[k, k + i]] = x[[k + i, k]]
            x[:, [k, k + j]] = x[:, [k + j, k]]
        for x in (left, off_left):
            x[[k, k + i], :k] = x[[k + i, k], :k]
        for x in (up, off_up):
            x[:k, [k, k + j]] = x[:k, [k + j, k]]
        rest = slice(k + 1, n)
        if np.all(np.abs(s[k:, k:]) <= 4 * e[k:, k:]):
            if not _singular(m[at_row][:, at_column], (left[:, :k] * pivots[:k]) @ up[:k], k):
                off = math.inf
            break
        p, off_p = s[k, k], e[k, k] / abs(s[k, k])
        pivots[k], off = p, max(off, off_p)
        if k + 1 == n:
            break
        low, high = s[rest, k] / p, s[k, rest] / p
        off_low = e[rest, k] / abs(p) + np.abs(low) * (off_p + eps / 2)
        off_high = e[k, rest] / abs(p) + np.abs(high) * (off_p + eps / 2)
        left[rest, k], up[k, rest] = low, high
        off_left[rest, k], off_up[k, rest] = off_low, off_high
        taken = np.outer(low, s[k, rest])
        e[rest, rest] += (
            np.outer(off_low, np.abs(s[k, rest]))
            + np.outer(np.abs(low), e[k, rest])
            + eps / 2 * np.abs(taken)
        )
        s[rest, rest] -= taken
        e[rest, rest] += eps / 2 * np.abs(s[rest, rest]) * (taken != 0)
    for one, off_one in ((left, off_left), (up, off_up)):
        off += np.linalg.norm(off_one) * np.linalg.norm(np.linalg.inv(one), 2)
    # Rows and columns where they were.
    back_row, back_column = np.argsort(at_row), np.argsort(at_column)
    return [up[:, back_column], np.diag(pivots), left[back_row]], float(off)


def _singular(m: np.ndarray, close: np.ndarray, rank: int) -> bool:
    """Whether M has the rank of a matrix that is close to it, itself or within rounding."""
    n = len(m)
    if np.all(np.abs(m - close) <= 8 * n * np.finfo(float).eps * np.abs(m)):
        return True
    return n <= _EXACT and _rank(m) <= rank


def _rank(m: np.ndarray) -> int:
    """The exact rank, by elimination without fractions in whole numbers (Bareiss 1968)."""
    mantissa, power = np.frexp(m)
    power = power - np.min(power)
    rows = [
        [int(x) << int(shift) for x, shift in zip(*row, strict=True)]
        for row in zip(np.ldexp(mantissa, 53), power, strict=True)
    ]
    rank, before = 0, 1
    for j in range(len(m)):
        at = next((i for i in range(rank, len(m)) if rows[i][j]), None)
        if at is None:
            continue
        rows[rank], rows[at] = rows[at], rows[rank]
        top = rows[rank]
        for i in range(rank + 1, len(m)):
            first = rows[i][j]
            rows[i] = [
                (top[j] * x - first * y) // before for x, y in zip(rows[i], top, strict=True)
            ]
        before, rank = top[j], rank + 1
    return rank
