"""Split factors of any kind into products of diagonal and well-conditioned ones, with errors.

Notation: A 2^r' = 2^r M 2^c with integer r, c, and the row scales r' of the previous factor;
M = L D U up to permutations, from Gaussian elimination with complete pivoting.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

_WORK = 3e7
"""Largest number of entries times columns: a pass over every matrix for each column."""
_EVEN = 1e2
"""Matrices with a condition number below this stay as they are."""
_EXACT = 32
"""Largest number of rows for elimination in fractions, if rounding hides a pivot."""
_RANGE = 900
"""Largest power of two in one diagonal factor."""


class Split(NamedTuple):
    factors: np.ndarray
    """[count, n, n], the first one to be applied first."""
    log_scale: float
    """To be added to every log of a singular value."""
    error: float
    """Error of every log, to first order; infinite if it is unknown."""


def split(factors: np.ndarray) -> Split | None:
    """Split a product into factors that lose no accuracy; None if that is too much work.

    If a pivot may be zero, up to 32 rows are eliminated in fractions. With more rows the error is
    unknown, unless the remainder is zero without any rounding.

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
    parts += [np.eye(n)] * (8 * layers - len(parts))  # mostly one shape: few programs compile
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
    """[U, D, L] of M and a bound on the effect of their errors on any log."""
    n, eps = len(m), np.finfo(float).eps
    values = np.linalg.svd(m, compute_uv=False)
    if values[0] < _EVEN * values[-1]:
        return [m], 0.0
    s, e = m.copy(), np.zeros((n, n))  # the remainder, and its error
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
            if np.all((s[k:, k:] == 0) & (e[k:, k:] == 0)):
                break
            if n <= _EXACT:
                return _eliminated_exactly(m)
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
    # Move rows and columns back to where they were.
    back_row, back_column = np.argsort(at_row), np.argsort(at_column)
    return [up[:, back_column], np.diag(pivots), left[back_row]], float(off)


def _eliminated_exactly(m: np.ndarray) -> tuple[list[np.ndarray], float]:
    """`_eliminated` in fractions, rounded at the end."""
    n, eps, rank = len(m), np.finfo(float).eps, 0
    fractions = lambda x: np.array([[Fraction(float(y)) for y in row] for row in x], object)
    s, left, up = map(fractions, (m, np.eye(n), np.eye(n)))
    pivots = np.array([Fraction(0)] * n, object)
    at_row, at_column = np.arange(n), np.arange(n)
    for k in range(n):
        size = np.abs(s[k:, k:])
        i, j = np.unravel_index(np.argmax(size), size.shape)
        if size[i, j] == 0:
            break
        for x in (s, at_row, left[:, :k]):
            x[[k, k + i]] = x[[k + i, k]]
        for x in (s.T, at_column, up[:k].T):
            x[[k, k + j]] = x[[k + j, k]]
        pivots[k], rank, rest = s[k, k], k + 1, slice(k + 1, n)
        left[rest, k], up[k, rest] = s[rest, k] / pivots[k], s[k, rest] / pivots[k]
        s[rest, rest] -= np.outer(left[rest, k], s[k, rest])
    left, up, pivots = (x.astype(float) for x in (left, up, pivots))
    # A pivot may be below the range of floats.
    off = math.inf if np.any(pivots[:rank] == 0) else eps
    for one in (left, up):
        off += eps / 2 * np.linalg.norm(one) * np.linalg.norm(np.linalg.inv(one), 2)
    return [up[:, np.argsort(at_column)], np.diag(pivots), left[np.argsort(at_row)]], float(off)
