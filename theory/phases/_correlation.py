"""The fixed point of the correlation of two typical inputs, in terms of 1 − c.

Notation: q the length, x = 1 − c, χ the slope at x = 0, S(x) the pair slope, and r(x) = x'/x, the
factor by which one layer multiplies 1 − c. E φ(u)φ(v) is a power series in c with coefficients
>= 0, so S is decreasing and convex in x, and so is r, the mean of S from 0 to x. Hence
|dS/dx| <= 2 (r − S)/x.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float

from theory.description import (
    Affine,
    Chain,
    Componentwise,
    Noise,
    Part,
    Pointwise,
    SinForm,
    Survey,
    interpret,
)
from theory.gaussian import epsilon, frozen, least
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    choose,
    newton,
    only_if,
    replace_where,
    scan,
    traced,
    xp,
)
from theory.phases._one_layer import SHORTEST, LayerMap, LengthPoint, one_layer

_NEAR = 0.05
"""Errors of log x beyond which the root is also solved for at the end of the error of r."""


class CorrelationPoint(eqx.Module):
    """The stable fixed point of the correlation map, at the fixed point of the length.

    `separation` is 1 − c*, to full relative accuracy; `slope` is the slope of the map at c*.
    """

    correlation: Estimate
    separation: Estimate
    slope: Estimate
    log_slope: Estimate | None = None
    """log of the slope, where a closed form gives it beyond the range of floating-point numbers."""


class _Problem(eqx.Module):
    """Find log r(x) + raised = 0, for one body at one length."""

    body: Part
    q: Float[Array, ""]
    noise: Float[Array, ""]
    """Fresh variance that one layer adds to the length and to the separation."""
    raised: Float[Array, ""]
    present: Bool[Array, ""]
    """Whether there is a root; if not, nothing is solved."""
    needed: Bool[Array, ""]
    """Whether the map is needed at all."""


class _Solved(eqx.Module):
    """The root y = log x of log r(x), the layer there, and the errors."""

    y: Float[Array, ""]
    layer: LayerMap
    error: LayerMap
    above: Float[Array, ""]
    """How far above y the root may be."""
    below: Float[Array, ""]
    """How far below y it may be."""
    slope_doubt: Float[Array, ""]
    """Effect of the error of q on S at fixed x."""


def _layer(y: Array, problem: _Problem, order: int, errors: bool) -> tuple[LayerMap, LayerMap]:
    layer, error = one_layer(problem.body, problem.q, xp.exp(y), order=order, errors=errors)
    noisy = lambda t: (t.length + problem.noise, t.separation + problem.noise)
    return eqx.tree_at(lambda t: (t.length, t.separation), layer, noisy(layer)), error


def _log_ratio(y: Float[Array, ""], layer: LayerMap) -> Float[Array, ""]:
    """log r at x = e^y, without the rounding error of y."""
    return xp.log(layer.separation / layer.length / xp.exp(y))


def _steepness(y: Array, layer: LayerMap, q: Array) -> Float[Array, ""]:
    """d log r/d log x < 0; by Price's theorem ∂s'/∂s is the pair slope."""
    # Rounding must not reverse its sign where it vanishes with x.
    rate = layer.pair_slope * q * xp.exp(y) / layer.separation - 1
    return xp.minimum(rate, -float(np.finfo(rate.dtype).tiny))


def _ratio_error(layer: LayerMap, error: LayerMap) -> Float[Array, ""]:
    return error.separation / layer.separation + error.length / layer.length


def _solved(problem: _Problem, *, order: int, doubt: Array) -> _Solved:
    solve = _solve_differentiably if traced(problem, doubt) else _solve
    return solve(problem, order=order, doubt=doubt)


@eqx.filter_custom_jvp
def _solve_differentiably(problem: _Problem, *, order: int, doubt: Array) -> _Solved:
    return _solve(problem, order=order, doubt=doubt)


def _solve(problem: _Problem, *, order: int, doubt: Array) -> _Solved:
    """Solve r(x) = 1; `doubt` is the relative error of q.

    `y` and `layer` are differentiable in the problem, by the implicit function theorem.
    """
    q = problem.q
    # The root may be at x = 1 itself (odd φ without bias), which must not be an end point.
    lower, upper = (xp.log(xp.asarray(end, q.dtype)) for end in (least(q), 1.5))

    def miss(y, layer):
        return _log_ratio(y, layer) + problem.raised

    def coarse(y):
        layer, _ = _layer(y, problem, 3 * order // 4, False)
        return miss(y, layer), _steepness(y, layer, q), None

    # Most steps use a lower order and no errors, at a tenth of the cost.
    y, _ = newton(coarse, xp.full_like(q, -1.0), lower, upper, 1e-6, problem.present)

    def seek(state, far):
        """Go from near the root to it, and then (`far`) to the end of its error if that is wide.

        Both happen in one loop, so that the layer is compiled once.
        """
        asked = xp.where(far, state.wide, problem.needed)
        if not traced(asked) and not asked:
            return state, state.y

        def look(y):
            layer, error = _layer(y, problem, order, True)
            value, own = miss(y, layer), _ratio_error(layer, error)
            # Within its error of a root a point counts as one; without a root one step ends it.
            done = ~problem.present | (xp.abs(value) <= own / 4)
            # The error of r may be larger there.
            end = value + xp.maximum(state.wrong, own + state.moved * doubt)
            slope = xp.where(problem.present, _steepness(y, layer, q), 1.0)
            return xp.where(far, end, xp.where(done, 0.0, value)), slope, (y, layer, error)

        y, seen = newton(look, state.y, lower, upper, xp.where(far, 1e-3, 1e-13), asked)
        first = asked & ~far
        found = judge(*seen, there_is_one=first & problem.present)
        return choose(first, found, state), y

    def judge(y, layer, error, there_is_one):
        # Evaluate once more at slightly different q, to see how the root moves.
        step = 1e-4
        beside = eqx.tree_at(lambda p: p.q, problem, q * (1 + step))
        there = only_if(there_is_one, lambda: _layer(y, beside, order, False)[0])
        there = choose(there_is_one, there, layer)
        moved = xp.abs(_log_ratio(y, there) - _log_ratio(y, layer)) / step
        slope_doubt = xp.abs(there.pair_slope - layer.pair_slope) / step * doubt
        rest = xp.abs(miss(y, layer)) + 4 * epsilon(q)
        wrong = _ratio_error(layer, error) + moved * doubt + rest
        below = wrong / xp.abs(_steepness(y, layer, q))
        wide = problem.present & xp.isfinite(wrong) & ~(below <= _NEAR)
        return _Judged(y, layer, error, slope_doubt, wrong, moved, below, wide)

    # Harmless numbers where nothing is needed.
    none, one = xp.zeros_like(q), xp.ones_like(q)
    layer, error = LayerMap(one, one, one, one), LayerMap(none, none, none, none)
    start = _Judged(y, layer, error, none, none, none, none, none > 0)
    found, ends = scan(seek, start, np.array([False, True]))
    above = xp.where(found.wide, ends[1] + 1e-2 - found.y, (1 + 2 * _NEAR) * found.below)
    above = xp.where(xp.isfinite(found.wrong), above, upper - found.y)
    return _Solved(found.y, found.layer, found.error, above, found.below, found.slope_doubt)


class _Judged(NamedTuple):
    """The error analysis at one y."""

    y: Array
    layer: LayerMap
    error: LayerMap
    slope_doubt: Array
    wrong: Array
    """Error of log r."""
    moved: Array
    """|∂ log r/∂ log q|."""
    below: Array
    """How far below y the root may be."""
    wide: Array
    """Whether that is far."""


@_solve_differentiably.def_jvp
def _root_moves(primals, tangents, *, order, doubt):
    (problem,), (change,) = primals, tangents
    found = _solve_differentiably(problem, order=order, doubt=doubt)
    along = lambda y, p: _log_ratio(y, _layer(y, p, order, False)[0])
    _, slope = jax.jvp(lambda y: along(y, problem), (found.y,), (xp.ones_like(found.y),))
    _, moved = eqx.filter_jvp(lambda p: along(found.y, p), (problem,), (change,))
    dy = xp.where(problem.present, -moved / slope, 0.0)
    layer = lambda y, p: _layer(y, p, order, False)[0]
    _, dlayer = eqx.filter_jvp(layer, (found.y, problem), (dy, change))
    still = jax.tree.map(xp.zeros_like, found)
    return found, eqx.tree_at(lambda s: (s.y, s.layer), still, (dy, dlayer))


class _Fresh(Survey[Any]):
    """Whether the body contains noise, which differs between two equal inputs."""

    def noise(self, node: Noise, state):
        return state | (node.variance > 0), None


def stable_correlation(
    body: Part,
    point: LengthPoint,
    *,
    noise: Any = 0.0,
    tolerance: Any = 1e-10,
    order: int = 64,
) -> CorrelationPoint:
    """c* of two typical inputs, given the fixed point of their length.

    For χ > 1 it is the only root of r(x) = 1 with 0 < x <= 1 (r decreases from χ at x = 0 to at
    most 1 at x = 1); for χ < 1, c* = 1. With noise that the inputs do not share, r decreases
    from infinity, and c* < 1 for any χ. If χ − 1 is within its error, x lies between 0 and the
    root for the largest χ: the value is in the middle, and the error covers both ends. At
    q* = 0 the map is that of infinitesimal lengths; if it leaves every c unchanged, c* is
    ABSENT.

    Parameters
    ----------
    noise
        Variance per component of fresh noise that every layer adds in addition to the body. Then
        x' = (s' + noise)/q, which always has exactly one fixed point.

    References
    ----------
    Poole et al. 2016, eq. 5; Schoenholz et al. 2017, eqs. 7-9.
    """
    zero = point.length.value == 0
    q = xp.where(zero, SHORTEST, point.length.value)
    q = xp.where(xp.isfinite(q) & (q > 0), q, 1.0)
    doubt = frozen(xp.where(zero, 0.0, point.length.error) / q)
    # The slope of the correlation map at c = 1 is that of the distance over that of the length.
    chi = xp.where(zero, point.slope.value / point.multiplier.value, point.slope.value)
    relative = lambda e: e.error / xp.abs(e.value)
    ratio_error = xp.abs(chi) * (relative(point.slope) + relative(point.multiplier) + epsilon(q))
    chi_error = frozen(xp.where(zero, ratio_error, point.slope.error))
    noise = xp.asarray(noise, q.dtype)
    # Where φ jumps χ is infinite, whatever its error.
    told = (xp.abs(chi - 1) > chi_error) | xp.isposinf(chi)
    fresh, _ = interpret(body, _Fresh(), noise > 0)
    one, chaotic = told & (chi < 1) & ~fresh, (told & (chi > 1)) | fresh
    open_ = ~one & ~chaotic
    raised = frozen(xp.where(open_ & xp.isfinite(chi_error), xp.log1p(chi_error), 0.0))
    finite = xp.isfinite(point.length.value)
    present = finite & (chaotic | (open_ & ~zero))
    problem = _Problem(body, q, noise, raised, present, present | (finite & zero))

    found = _solved(problem, order=order, doubt=doubt)
    x, layer = xp.exp(found.y), found.layer
    log_r, slope = _log_ratio(found.y, layer), layer.pair_slope
    above = xp.expm1(xp.minimum(found.above, xp.maximum(-found.y, 0.0)))
    beyond = x + x * above
    # At q = 0 the lengths shrink together.
    together = zero & fresh
    shrunk = xp.where(together, q, 1.0) / xp.where(together, layer.length, 1.0)
    moves = xp.abs(log_r) > 1e-12
    # At q = 0 and x of order one: r is below the chord from there to its value at x = 0.
    chord = x * chi_error / (chi + chi_error - xp.exp(log_r))
    beyond = xp.where(zero & open_, chord, beyond)
    beyond = xp.where(xp.isnan(beyond) | ~(xp.isfinite(chi_error) | told), 1.0, beyond)
    above = xp.where(beyond == 1, 1 - x, above * x)
    x_error = xp.maximum(above, xp.minimum(found.below, 1.0) * x)
    bend = 2 * xp.maximum(xp.exp(log_r) - slope, 0) / x
    slope_error = found.error.pair_slope + found.slope_doubt + bend * x_error
    # A stable fixed point has no slope above 1. The slope is χ if c* = 1, and at least 2 − χ if c*
    # is smaller, since r is convex.
    lowest = xp.maximum(1 - xp.abs(chi - 1) - chi_error, 0.0)
    x = xp.where(open_, beyond / 2, x)
    x_error = xp.where(open_, beyond / 2 * (1 + 1e-9), x_error)
    # The same bound applies where x is known too poorly for a better one.
    slope, slope_error = slope * shrunk, slope_error * frozen(shrunk)
    vague = open_ | (chaotic & ~fresh & xp.isfinite(chi) & ~(found.below <= _NEAR))
    slope = xp.where(vague, (lowest + 1) / 2, slope)
    slope_error = xp.where(vague, (1 - lowest) / 2 * (1 + 1e-9) + epsilon(q), slope_error)
    x, x_error = (xp.where(one, 0.0, v) for v in (x, x_error))
    slope, slope_error = xp.where(one, chi, slope), xp.where(one, chi_error, slope_error)
    x_error, slope_error = frozen((x_error, slope_error))

    absent = (~chaotic & zero & ~moves) | ~finite
    settled = CorrelationPoint(
        as_estimate(1 - x, x_error, tolerance, 1.0),
        as_estimate(x, x_error, tolerance),
        as_estimate(slope, slope_error, tolerance),
        _log_slope(body, q, x, x_error, doubt, tolerance),
    )
    return replace_where(absent, Status.ABSENT, settled)


def _log_slope(body: Part, q, x, x_error, doubt, tolerance: Any) -> Estimate | None:
    """log S of a layer of sines, which decreases like −q x."""
    match body:
        case Chain(parts=(Pointwise(activation=Componentwise() as phi), Affine(weights=law))):
            form = phi.closed_form
        case _:
            return None
    if not isinstance(form, SinForm):
        return None
    log = xp.log(law.variance) + form.log_slope(q, x)
    error = q * (x_error + doubt) + 8 * epsilon(q) * (1 + q + xp.abs(log))
    return as_estimate(log, frozen(error), tolerance)
