"""Nodes and weights for Gaussian expectations of one variable, and of two at any correlation.

Notation, all in standard units: z, s and t have variance 1; s and t have correlation 1 − x ≥ 0;
a = (s + t)/2 and b = (s − t)/2 are independent with variances 1 − x/2 and x/2. A feature is a
kink, or the centre of a smooth step, at distance k > 0 from the origin; the origin always counts
as one. Nodes cover one half or one quarter of the space, and the caller symmetrises.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from theory.numerics import Array, stop_gradient, xp


class Resolution(NamedTuple):
    """How finely a rule samples."""

    order: int
    """Nodes per graded panel; panels between two features take half as many."""
    stretch: float = 3.0
    """Graded panels are uniform up to this many times the scale of a feature."""
    cut: float = 9.0
    """Standard deviations beyond which a Gaussian is dropped."""
    zoom: int = 0
    """Number of extra refinements towards both ends of every panel."""
    bend: Any = 0.0
    """Least grading of panels. Rules of one order that differ in it have different nodes also in
    panels shorter than any feature."""


@functools.cache
def _legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on [0, 1], computed in extended precision."""
    y = np.polynomial.legendre.leggauss(order)[0].astype(np.longdouble)
    slope = y
    for _ in range(3):
        before, p = np.ones_like(y), y
        for k in range(2, order + 1):
            before, p = p, ((2 * k - 1) * y * p - (k - 1) * before) / k
        slope = order * (before - y * p) / (1 - y * y)
        y = y - p / slope
    return ((1 + y) / 2).astype(float), (1 / ((1 - y * y) * slope**2)).astype(float)


_ZOOM, _NEAREST, _FEW = 12, 0.1, (16, 8, 5)
"""Factor between refinements, where they begin, and nodes in the first and in all later ones. If
a kink lies close to an end, few nodes capture most of what is left out, wherever the kink is."""


@functools.cache
def _rule(order: int, zoom: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre on [0, 1], or on pieces that shrink towards both ends."""
    if zoom == 0:
        return _legendre(order)
    near = np.append(_NEAREST / float(_ZOOM) ** np.arange(zoom), 0.0)
    few = [_legendre(_FEW[min(step, len(_FEW) - 1)]) for step in range(zoom)]
    pieces = [(a, b - a, *rule) for (b, a), rule in zip(itertools.pairwise(near), few, strict=True)]
    mirrored = [(1 - a, -length, y, w) for a, length, y, w in pieces]
    pieces += [(_NEAREST, 1 - 2 * _NEAREST, *_legendre(order)), *mirrored]
    nodes = np.concatenate([a + length * y for a, length, y, _ in pieces])
    return nodes, np.concatenate([abs(length) * w for _, length, _, w in pieces])


def _table(length: Array, order: int, zoom: int) -> list[Array]:
    tables = _rule(order, zoom)
    shape = (1,) * length.ndim + tables[0].shape
    return [xp.asarray(table, length.dtype).reshape(shape) for table in tables]


def plain_panel(
    length: Float[Array, "*b"], order: int, how: Resolution | None = None
) -> tuple[Array, Array]:
    """Nodes and weights on [0, length], evenly spread except for `how.bend`."""
    zoom, bend = (0, 0.0) if how is None else (how.zoom, how.bend)
    xi, omega = _table(length, order, zoom)
    if isinstance(bend, float) and bend == 0:
        return length[..., None] * xi, length[..., None] * omega
    return _graded(length, xp.full_like(length, bend), xi, omega)


_RATIO = (6, 20, 42, 72, 110, 156)
_SLOPE = (2, 12, 30, 56, 90, 132)
"""p(t)/t and p'(t) as 1 + t²/n₁(1 + t²/n₂(…)), p the Taylor polynomial of sinh."""


def _nested(t2: Array, divisors: tuple[int, ...]) -> Array:
    total = xp.ones_like(t2)
    for n in reversed(divisors):
        total = 1 + t2 * total * (1 / n)
    return total


def graded_panel(
    length: Float[Array, "*b"], width: Array, order: int, how: Resolution | None = None
) -> tuple[Array, Array]:
    """Nodes and weights on [0, length], dense near 0 so that features of this width are resolved.

    y = length · p(Tξ)/p(T) with p ≈ sinh and T = arsinh(length/width): nearly uniform in log y
    beyond the width, at the cost of a few multiplications.
    """
    xi, omega = _table(length, order, 0 if how is None else how.zoom)
    top = xp.arcsinh(length / width)
    top = top if how is None else xp.maximum(top, how.bend)
    return _graded(length, top, xi, omega)


def _graded(length: Array, top: Array, xi: Array, omega: Array) -> tuple[Array, Array]:
    top = xp.square(top)[..., None]
    scale, t2 = length[..., None] / _nested(top, _RATIO), top * xi * xi
    return scale * xi * _nested(t2, _RATIO), scale * _nested(t2, _SLOPE) * omega


def _gaussian(z: Array) -> Array:
    """2N(z): the density of |z|."""
    return xp.exp(-0.5 * z * z) * math.sqrt(2 / math.pi)


def half_line(
    breaks: Sequence[Array], width: Float[Array, "*b"], how: Resolution
) -> tuple[Float[Array, "*b n"], Float[Array, "*b n"]]:
    """Nodes and weights for E f(|z|), z ~ N(0, 1), for f smooth between the breaks."""
    cut = xp.full_like(width, how.cut)
    edges = [xp.zeros_like(cut), *(xp.minimum(k, cut) for k in breaks)]
    edges = xp.sort(xp.stack(edges), axis=0) if breaks else xp.stack(edges)
    outer, weight_outer = graded_panel(cut - edges[-1], width, how.order, how)
    outer = edges[-1][..., None] + outer
    if not breaks:
        return outer, weight_outer * _gaussian(outer)
    inner, weight = plain_panel(xp.diff(edges, axis=0), how.order // 2, how)
    inner = edges[:-1, ..., None] + inner
    z = xp.concatenate([*inner, outer], axis=-1)
    return z, xp.concatenate([*weight, weight_outer], axis=-1) * _gaussian(z)


class PairNodes(NamedTuple):
    """Nodes with a, b ≥ 0, whose weights sum to one."""

    s: Float[Array, "nb na"]
    t: Float[Array, "nb na"]
    a: Float[Array, "nb na"]
    b: Float[Array, "nb 1"]
    weight: Float[Array, "nb na"]


def quarter_plane(
    x: Float[Array, ""], features: Sequence[Array], width: Array, how: Resolution
) -> PairNodes:
    """Nodes and weights for E f(s, t), for f with the symmetries a → −a and b → −b.

    For given b, the wide Gaussian a is split where s or t meets a feature. These places depend
    on b, and b itself is split where two of them coincide. So the integrand is smooth within
    every panel, for any x in (0, 1].
    """
    wide, narrow = xp.sqrt(1 - x / 2), xp.sqrt(x / 2)
    breaks = [c for k in features for c in (k, k / 2)]
    for k, j in itertools.combinations(features, 2):
        breaks += [(k + j) / 2, xp.abs(k - j) / 2]
    # In units of its deviation: rounding errors that do not depend on x are not divided by x.
    b, weight_b = half_line([k / narrow for k in breaks], stop_gradient(width / narrow), how)
    b = narrow * b

    # Each break of a, with t there: exact, so that nodes keep their distance from a feature.
    cut = how.cut * wide
    at = xp.stack([b, *(xp.abs(b - k) for k in features), *(b + k for k in features)])
    t_at = [xp.where(b > k, -k, k - 2 * b) for k in features]
    t_at = xp.stack([xp.zeros_like(b), *t_at, *(xp.full_like(b, k) for k in features)])
    if features:
        rank = xp.argsort(stop_gradient(at), axis=0)
        at, t_at = (xp.take_along_axis(e, rank, axis=0) for e in (at, t_at))
    at = xp.minimum(at, cut)

    first, weight_first = graded_panel(at[0], width, how.order, how)
    steps, weight_steps = plain_panel(xp.diff(at, axis=0), how.order // 2, how)
    last, weight_last = graded_panel(cut - at[-1], width, how.order, how)

    def join(first, steps, last):
        return xp.concatenate([first, *steps, last], axis=-1)

    a = join(at[0][:, None] - first, at[:-1, :, None] + steps, at[-1][:, None] + last)
    t = join(t_at[0][:, None] - first, t_at[:-1, :, None] + steps, t_at[-1][:, None] + last)
    weight = join(weight_first, weight_steps, weight_last) * _gaussian(a / wide) / wide
    b = b[:, None]
    return PairNodes(t + 2 * b, t, a, b, weight * weight_b[:, None])
