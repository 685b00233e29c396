"""Gaussian expectations of the activations that have them in closed form.

For u ~ N(0, q), and for a centred Gaussian pair (u, v) with variances q_a, q_b and correlation
c = 1 - x, the closed forms give the moments of φ and of its derivative φ'. Pairs are described
by x rather than c because nearby inputs are the interesting ones, and 1 - c would have lost the
digits that x keeps. For the same reason the mean squared difference of the two outputs is a
separate result, computed without subtracting one moment from another.

Below, y = 2 - x, so that x y = 1 - c², and c = cos θ, so that x = 2 sin²(θ/2).
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from theory.numerics import Array

Points = Float[Array, "*points"]


class ClosedForm(eqx.Module):
    """The Gaussian moments of one activation φ, in closed form.

    All arguments are elementwise and results have their floating-point type. Values are valid
    for q ≥ 0 and 0 ≤ x ≤ 2; derivatives with respect to q need q > 0.
    """

    @abc.abstractmethod
    def single(self, q: Points) -> tuple[Points, Points, Points]:
        """Return E φ(u), E φ(u)² and E φ'(u)² for u ~ N(0, q)."""

    @abc.abstractmethod
    def pair(self, q_a: Points, q_b: Points, x: Points) -> tuple[Points, Points, Points]:
        """Return E φ(u)φ(v), E (φ(u) - φ(v))²/2 and E φ'(u)φ'(v), in this order.

        The pair (u, v) is centred Gaussian with variances q_a, q_b and correlation 1 - x.
        """


class PiecewiseLinearForm(ClosedForm):
    """φ(z) = z for z ≥ 0 and a z for z < 0: relu at a = 0, |z| at a = -1, linear at a = 1.

    With J(θ) = sin θ - θ cos θ,

        E φ(u)φ(v)            = √(q_a q_b) [(1 + a²) J(π - θ) - 2a J(θ)] / 2π
        E (φ(u) - φ(v))²/2    = (1 + a²)(√q_a - √q_b)²/4
                                + √(q_a q_b) [(1 + a²) x/2 - (1 - a)² J(θ)/2π]
        E φ'(u)φ'(v)          = [(1 + a²)(π - θ) + 2a θ] / 2π
        E φ(u), E φ(u)²       = (1 - a) √(q/2π), (1 + a²) q/2

    Accuracy
    --------
    1e-15 of each value for every q_a, q_b, x and a. Where the product or the slope changes sign
    (at a correlation that depends on a), the error is 1e-15 of its terms instead. The product is
    differentiable in x at x = 0; the slope is not: its derivative is -∞ there.

    References
    ----------
    Cho and Saul (2009), Kernel methods for deep learning, section 2 (degrees 0 and 1).
    """

    negative_slope: Float[Array, ""]

    def single(self, q: Points) -> tuple[Points, Points, Points]:
        a = self.negative_slope.astype(jnp.result_type(q))
        half = (1 + a * a) / 2
        return (1 - a) * jnp.sqrt(q / (2 * math.pi)), half * q, half * jnp.ones_like(q)

    def pair(self, q_a: Points, q_b: Points, x: Points) -> tuple[Points, Points, Points]:
        a = self.negative_slope.astype(jnp.result_type(x))
        y, c = 2 - x, 1 - x
        near, far = _angle_gap(x), _angle_gap(y)  # J(θ), J(π - θ) = J(θ) + π cos θ
        squares, bend, full = 1 + a * a, (1 - a) ** 2, 2 * math.pi
        # Each where() selects the form whose terms do not cancel at that end of the range.
        kernel = jnp.where(
            c > -0.5,
            squares * c / 2 + bend * near / full,
            (squares * far - 2 * a * near) / full,
        )
        gap = jnp.where(
            c >= 0,
            squares * x / 2 - bend * near / full,
            (1 + a) ** 2 / 2 - a * y - bend * far / full,
        )
        slope = jnp.where(
            c > -0.5,
            (1 + a) ** 2 / 4 + bend * jnp.arctan2(c, jnp.sqrt(x * y)) / full,
            (squares * _angle(y) + 2 * a * _angle(x)) / full,
        )
        root = jnp.sqrt(q_a) * jnp.sqrt(q_b)
        return root * kernel, squares / 2 * _half_gap(q_a, q_b) + root * gap, slope


class ErfForm(ClosedForm):
    """φ(z) = erf(z), for which φ'(z) = 2 exp(-z²)/√π.

    With D = (1 + 2q_a)(1 + 2q_b) - 4 q_a q_b c² = 1 + 2q_a + 2q_b + 4 q_a q_b x y,

        E φ(u)φ(v)    = (2/π) arctan(2c √(q_a q_b) / √D)
        E φ'(u)φ'(v)  = (4/π) / √D
        E φ(u)²       = (2/π) arcsin(2q / (1 + 2q))

    and E (φ(u) - φ(v))²/2 = (2/π)(δ - g), where g is the mean of g_a and g_b,

        cos δ = 2c √(q_a q_b) / √((1 + 2q_a)(1 + 2q_b)),   cos g_a = 2q_a / (1 + 2q_a)

    and sin(δ - g) can be computed without subtraction.

    Accuracy
    --------
    1e-15 of each value for every q_a, q_b and x.

    References
    ----------
    Williams (1997), Computing with infinite networks, section 3.1 (the covariance for erf).
    """

    def single(self, q: Points) -> tuple[Points, Points, Points]:
        root = jnp.sqrt(1 + 4 * q)
        return jnp.zeros_like(q), 2 / math.pi * jnp.arctan2(2 * q, root), 4 / math.pi / root

    def pair(self, q_a: Points, q_b: Points, x: Points) -> tuple[Points, Points, Points]:
        c, spread = 1 - x, x * (2 - x)
        root = jnp.sqrt(1 + 2 * (q_a + q_b) + 4 * q_a * q_b * spread)  # √D
        cross = 2 * jnp.sqrt(q_a) * jnp.sqrt(q_b)
        product = 2 / math.pi * jnp.arctan2(cross * c, root)
        slope = 4 / math.pi / root

        # With α = √(1 + 4q_a), β = √(1 + 4q_b), P = √D (αβ - 1) and R = c cross (α + β),
        # tan(δ - g) = (P - R) / (cross c (αβ - 1) + √D (α + β)), and for c > 0 P - R is taken
        # from P² - R² = 16 (1 + 2q_a)(1 + 2q_b) [(q_a - q_b)²/(α + β)² + q_a q_b x y].
        alpha, beta = jnp.sqrt(1 + 4 * q_a), jnp.sqrt(1 + 4 * q_b)
        both = alpha + beta
        excess = 4 * (q_a + q_b + 4 * q_a * q_b) / (alpha * beta + 1)  # αβ - 1
        total = root * excess + jnp.where(c >= 0, c, -c) * cross * both  # P + |R|
        safe = jnp.where(total > 0, total, 1)
        change = q_a - q_b
        squares = (change / safe) * change / both**2 + (q_a / safe) * q_b * spread
        above = jnp.where(c >= 0, 16 * (1 + 2 * q_a) * (1 + 2 * q_b) * squares, total)  # P - R
        distance = 2 / math.pi * jnp.arctan2(above, cross * c * excess + root * both)
        return product, distance, slope


class SinForm(ClosedForm):
    """φ(z) = sin z.

    With m = E (u - v)²/2 = (√q_a - √q_b)²/2 + √(q_a q_b) x, and p = E (u + v)²/2 likewise with y
    for x,

        E φ(u)φ(v)          = (e^-m - e^-p)/2
        E φ'(u)φ'(v)        = (e^-m + e^-p)/2
        E (φ(u) - φ(v))²/2  = (1 - e^-m)(1 + e^-p)/2 - (e^-q_a - e^-q_b)²/4
        E φ(u)², E φ'(u)²   = (1 - e^-2q)/2, (1 + e^-2q)/2

    Accuracy
    --------
    1e-15 (1 + min(m, p)) of each value: the error that exp(-m) inherits from the rounding of m.
    Values below the smallest number of the type are zero.
    """

    def single(self, q: Points) -> tuple[Points, Points, Points]:
        return jnp.zeros_like(q), -jnp.expm1(-2 * q) / 2, (1 + jnp.exp(-2 * q)) / 2

    def pair(self, q_a: Points, q_b: Points, x: Points) -> tuple[Points, Points, Points]:
        c, root, gap = 1 - x, jnp.sqrt(q_a) * jnp.sqrt(q_b), _half_gap(q_a, q_b)
        minus, plus = gap + root * x, gap + root * (2 - x)
        sign = jnp.where(c >= 0, 1, -1).astype(jnp.result_type(x))
        least = jnp.where(c >= 0, minus, plus)
        product = -sign * jnp.exp(-least) * jnp.expm1(-2 * root * sign * c) / 2
        slope = (jnp.exp(-minus) + jnp.exp(-plus)) / 2

        unequal = jnp.exp(-jnp.minimum(q_a, q_b)) * jnp.expm1(-jnp.abs(q_a - q_b))
        distance = -jnp.expm1(-minus) * (1 + jnp.exp(-plus)) / 2 - unequal**2 / 4
        return product, distance, slope

    def log_slope(self, q: Points, x: Points) -> Points:
        """log E φ'(u)φ'(v) for equal lengths q, also where the slope underflows."""
        return jnp.logaddexp(-q * x, -q * (2 - x)) - math.log(2)


def _half_gap(q_a: Points, q_b: Points) -> Points:
    """(√q_a - √q_b)²/2, to full relative accuracy as q_b → q_a."""
    total = jnp.sqrt(q_a) + jnp.sqrt(q_b)
    return ((q_a - q_b) / jnp.where(total > 0, total, 1)) ** 2 / 2


def _angle(x: Points) -> Points:
    """θ in [0, π] with cos θ = 1 - x, to full relative accuracy."""
    return 2 * jnp.arctan2(jnp.sqrt(x), jnp.sqrt(2 - x))


@jax.custom_jvp
def _angle_gap(x: Points) -> Points:
    """sin θ - θ cos θ with cos θ = 1 - x, to full relative accuracy: θ³/3 near x = 0."""
    theta = _angle(x)
    square = theta * theta
    series = jnp.zeros_like(x)
    for k in range(10, -1, -1):  # at θ = 1.05 the next term is below 1e-19 of the sum
        series = series * square + (-1) ** k * (2 * k + 2) / math.factorial(2 * k + 3)
    return jnp.where(x < 0.5, theta * square * series, jnp.sqrt(x * (2 - x)) - theta * (1 - x))


@_angle_gap.defjvp
def _angle_gap_jvp(primals: tuple[Points], tangents: tuple[Points]) -> tuple[Points, Points]:
    """The derivative with respect to x is θ, finite at both ends, where dθ/dx is not."""
    (x,), (tangent,) = primals, tangents
    return _angle_gap(x), _angle(x) * tangent
