"""Moments of φ(u), and of φ(u) and φ(v), for Gaussian u and v, with errors."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Float

from theory.description import Componentwise, found_jumps, is_new
from theory.gaussian._errors import (
    CAUTION,
    ROUNDING,
    closer_look,
    disagreement,
    errors_of,
    judged,
    of_alternatives,
)
from theory.gaussian._moment_integrals import (
    BEYOND,
    PairErrors,
    PairMoments,
    SingleMoments,
    as_floats,
    behind,
    beyond_cut,
    density_at,
    epsilon,
    floored,
    frozen,
    half_moments,
    jumping,
    least,
    pair_quadrature,
    pair_values,
    single_closed,
    single_quadrature,
    stein_defects,
)
from theory.gaussian._quadrature import Resolution
from theory.numerics import Array, stop_gradient, traced, xp


def single_moments(
    activation: Componentwise,
    q: Any,
    *,
    order: int = 64,
    use_closed_form: bool = True,
    with_errors: bool = True,
) -> tuple[SingleMoments, SingleMoments]:
    """Compute moments of φ(u), u ~ N(0, q), and their absolute errors.

    Parameters
    ----------
    activation
        φ; its closed form is used if it has one.
    q
        Lengths q ≥ 0 of pre-activations, of any shape. Results are NaN where q < 0.
    order
        Nodes per panel of the quadrature.
    use_closed_form
        False to integrate numerically in any case.
    with_errors
        False to skip the errors, which are then zero.

    Accuracy
    --------
    1e-14 of the size of the terms at order 64, for q up to 1e6. The errors cover rounding,
    features narrower than the declared `scale`, undeclared kinks, and growth so fast that the
    far tails of the Gaussian matter. They are infinite where the compared rules agree on no
    digit. For functions without a name, a further rule zooms in on the ends of panels: of
    30000 errors with an undeclared kink or jump, none was too small.

    Derivatives, also with respect to parameters of φ, are right at declared kinks. Those of
    `derivative_square` lose digits as eps/√q for small q.
    """
    (q,) = as_floats(q)
    q = xp.where(q >= 0, q, xp.nan)
    closed = use_closed_form and activation.closed_form is not None
    fixed, at = frozen(activation), stop_gradient(q)
    values = _single_values(activation, q, order, closed)
    if not with_errors:
        errors = jax.tree.map(xp.zeros_like, values)
    elif closed:
        m = frozen(values)
        rate = xp.abs(m.square_rate) + m.square / floored(at)
        sizes = SingleMoments(xp.sqrt(m.square), m.square, m.derivative_square, rate)
        errors = errors_of(m, sizes, sizes, None)
    else:
        study = lambda how: single_quadrature(fixed, at, how, bounds=True)
        if activation.features_known:
            errors = judged(study, frozen(values), order)
        else:
            closer = single_quadrature(fixed, at, closer_look(order))
            errors = judged(study, frozen(values), order, closer)
            errors = jax.tree.map(xp.add, errors, beyond_cut(fixed, at))
            strange = _hidden_jump(fixed, at, order)
            strange = strange | _reaches_hidden_jump(fixed, at, frozen(values).square)
            slope = xp.where(strange, xp.inf, errors.derivative_square)
            errors = eqx.tree_at(lambda e: e.derivative_square, errors, slope)
    if activation.jumps:
        slope = xp.where(jumping(fixed, at), xp.inf, values.derivative_square)
        values = eqx.tree_at(lambda m: m.derivative_square, values, slope)
    # q = 0 is evaluated slightly above; the effect is bounded by twice the rate.
    moved = 2 * xp.abs(stop_gradient(values.square_rate)) * (floored(at) - at)
    mean, square = errors.mean + xp.sqrt(moved), errors.square + moved
    return values, eqx.tree_at(lambda e: (e.mean, e.square), errors, (mean, square))


def _hidden_jump(activation: Componentwise, q: Array, order: int) -> Array:
    """Whether φ' does not integrate to φ: an undeclared jump, or too steep a step.

    An undeclared kink makes the defects of Stein's identity differ between rules; a jump makes
    them agree.
    """
    one = stein_defects(activation, q, Resolution(order))
    look = lambda how: stein_defects(activation, q, how)
    others = of_alternatives(look, order, q.dtype, host=not traced(q))
    defects = xp.concatenate([one[None], others])[:, 0]
    size, noise = xp.max(one[1], axis=0), 1e4 * epsilon(q)
    spread = xp.max(defects, axis=0) - xp.min(defects, axis=0)
    smallest = xp.min(xp.abs(defects), axis=0)
    return xp.any((smallest > 4 * spread) & (smallest > (noise * size)[None]), axis=0)


def _reaches_hidden_jump(activation: Componentwise, q: Array, size: Array) -> Array:
    """Whether u meets an undeclared jump of φ anywhere; `size` is E φ²."""
    k, step = found_jumps(activation.fn, q.dtype)
    reached = density_at(k, floored(q)) * xp.sqrt(floored(q))[..., None] > epsilon(q)
    new = is_new(behind(q, k), behind(q, step), activation.jumps, size[..., None])
    return xp.any(reached & new, axis=-1)


def _unseen(
    activation: Componentwise, a: Array, b: Array, x: Array, m: PairErrors, order: int
) -> PairErrors:
    """What pair rules miss between the end of a panel and an undeclared kink close to it.

    Relative to sizes, it is at most ten times what rules of one variable miss.
    """
    shares, squares, tails, strange = [], [], [], []
    for q in (a,) if a is b else (a, b):
        values, sizes = half_moments(activation, q, Resolution(order))
        look = lambda how, q=q: half_moments(activation, q, how)[0]
        more = of_alternatives(look, order, q.dtype, host=not traced(q))
        others = [look(closer_look(order))[None], more]
        explained = ROUNDING * epsilon(q)
        shares.append(disagreement(values, xp.concatenate(others), sizes, sizes, explained))
        squares.append(xp.mean(sizes[:, 2:], axis=0))
        strange.append(_reaches_hidden_jump(activation, q, squares[-1][0]))
        far = beyond_cut(activation, q)
        tails.append(xp.stack([far.square, far.derivative_square]))
    share = CAUTION * xp.max(xp.stack(shares))
    share = xp.where(share < 1, share, xp.inf)
    product, slope = xp.sqrt(squares[0] * squares[-1])
    of = lambda size: xp.where(size > 0, share * size, 0.0)
    tail, steep = xp.sqrt(tails[0] * tails[-1])
    # Close inputs differ by φ' (u − v) out there, too.
    gap = xp.square(xp.sqrt(a) - xp.sqrt(b)) + xp.sqrt(a * b) * x
    apart = xp.minimum(tails[0][0] + tails[-1][0], float(BEYOND[0]) ** 2 * gap * steep)
    # No node sees two inputs on either side of a jump, or both at it.
    jumps = xp.any(xp.stack(strange))
    jump = xp.where(jumps, xp.inf, 0.0)
    apart = of(xp.abs(m.distance)) + apart + jump
    product = of(product) * xp.where(jumps, 2.0, 1.0) + tail
    return PairErrors(product, apart, of(slope) + steep + jump)


def _single_values(activation: Componentwise, q: Array, order: int, closed: bool):
    if closed:
        return single_closed(activation, q)
    return single_quadrature(activation, q, Resolution(order))


def square_rate(
    activation: Componentwise, q: Float[Array, "*b"], *, order: int
) -> Float[Array, "*b"]:
    """∂E φ(u)²/∂q, u ~ N(0, q)."""
    return _single_values(activation, q, order, activation.closed_form is not None).square_rate


def slope_rate(
    activation: Componentwise, q: Float[Array, "*b"], *, order: int
) -> Float[Array, "*b"]:
    """∂E φ'(u)²/∂q, u ~ N(0, q), from a small difference: four digits, enough for errors."""
    closed, fixed = activation.closed_form is not None, frozen(activation)
    at = stop_gradient(floored(q))
    slope = lambda q: _single_values(fixed, q, order, closed).derivative_square
    return (slope(at * (1 + _STEP)) - slope(at)) / (_STEP * at)


_STEP = 1e-4


def pair_moments(
    activation: Componentwise,
    q_a: Any,
    q_b: Any,
    x: Any,
    *,
    order: int = 64,
    equal_lengths: bool = False,
    use_closed_form: bool = True,
    with_errors: bool = True,
) -> tuple[PairMoments, PairErrors]:
    """Compute moments of φ(u) and φ(v), and their absolute errors.

    Convention: (u, v) is centred Gaussian with variances q_a, q_b and correlation 1 − x.

    Parameters
    ----------
    activation
        φ; its closed form is used if it has one.
    q_a, q_b
        Lengths of the pre-activations, at least 0.
    x
        1 − c, from 0 to 2. Results are NaN where an argument is out of range.
    order
        Nodes per panel of the quadrature, in each direction.
    equal_lengths
        Treat q_a and q_b as one number, also under differentiation. Less than half the work.
    use_closed_form
        False to integrate numerically in any case.
    with_errors
        False to skip the errors, which are then zero.

    Accuracy
    --------
    As for `single_moments` (2e-11 at q = 1e6). `distance` has relative accuracy down to x = 0:
    1e-14, except 1e-11 where |u − v| is about 1e-5 of the scale of φ, and 1e-9 for even φ with
    q < 1e-6. Where an odd φ makes `product` vanish with c, the error of the product stays that
    of its terms.

    Derivatives of `product` and `distance` follow from Price's theorem and are as accurate as
    the moments: ∂product/∂x = −∂distance/∂x = −√(q_a q_b) slope. Derivatives of `slope` and of
    the rates with respect to x lose digits as eps/√x, and are evaluated at x = eps if x is
    smaller.

    Notes
    -----
    Over many points on a CPU, `jax.lax.map` is faster than `jax.vmap` and needs no memory.

    References
    ----------
    Price (1958), A useful theorem for nonlinear devices having Gaussian inputs, eq. 5.
    """
    q_a, q_b, x = as_floats(q_a, q_b, x)
    good = (q_a >= 0) & (q_b >= 0) & (x >= 0) & (x <= 2)
    q_a, q_b, x = (xp.where(good, y, xp.nan) for y in (q_a, q_b, x))
    closed = use_closed_form and activation.closed_form is not None
    how = None if closed else Resolution(order)
    values = pair_values(activation, q_a, q_b, x, how=how, equal=equal_lengths)
    if not with_errors:
        return values, jax.tree.map(xp.zeros_like, _first_three(values))
    fixed, (a, b, at), m = frozen(activation), frozen((q_a, q_b, x)), frozen(values)
    if closed:
        sizes = _closed_sizes(fixed, a, b, m)
        errors = errors_of(_first_three(m), sizes, sizes, None)
    else:
        args = (fixed, a, b, at)

        def study(how):
            values, sizes, rounding = pair_quadrature(*args, how, equal_lengths, bounds=True)
            if not fixed.jumps:
                return values, sizes, rounding
            slope = pair_values(*args, how=how, equal=equal_lengths).slope
            larger = lambda e: xp.maximum(e.slope, xp.abs(slope))
            put = lambda e, slope: eqx.tree_at(lambda e: e.slope, e, slope)
            return put(values, slope), put(sizes, larger(sizes)), put(rounding, larger(rounding))

        errors = judged(study, _first_three(m), order)
        if not fixed.features_known:
            other = a if equal_lengths else b
            unseen = _unseen(fixed, a, other, at, _first_three(m), order)
            errors = jax.tree.map(xp.add, errors, unseen)
        if fixed.jumps:
            # If the two coincide the slope may be infinite.
            there = (at < least(at)) | (2 - at < least(at))
            there = there & (jumping(fixed, a) | jumping(fixed, b))
            slope = xp.where(there, xp.inf, errors.slope)
            errors = eqx.tree_at(lambda e: e.slope, errors, slope)
    # Lengths of 0 are evaluated slightly above.
    shift_a, shift_b = 2 * (floored(a) - a), 2 * (floored(b) - b)
    moved = xp.abs(m.product_rate_a) * shift_a + xp.abs(m.product_rate_b) * shift_b
    apart = xp.abs(m.distance_rate_a) * shift_a + xp.abs(m.distance_rate_b) * shift_b
    errors = PairErrors(errors.product + moved, errors.distance + apart, errors.slope)
    return values, errors


def _first_three(m: PairMoments) -> PairErrors:
    return PairErrors(m.product, m.distance, m.slope)


def _closed_sizes(activation: Componentwise, q_a: Array, q_b: Array, m: PairMoments) -> PairErrors:
    """What rounding errors of closed forms are relative to."""
    one, other = single_closed(activation, q_a), single_closed(activation, q_b)
    return PairErrors(
        xp.sqrt(one.square * other.square),
        m.distance,
        xp.sqrt(one.derivative_square * other.derivative_square),
    )
