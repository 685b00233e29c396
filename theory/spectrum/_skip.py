"""Layers with a skip connection, 1 + a, in the equation for the moment function of a product.

Notation: a = W' D W is R-diagonal, so the law of ±|1 + a| is the free additive convolution of
the laws of ±|a| and of ±1. Let m_a, β and m be the moment functions of aaᵀ, of 1 and of
(1 + a)(1 + a)ᵀ at points where the Cauchy transforms of the three agree, and G² their square:

    G² = m_a (1 + m_a) S_a(m_a) = β (1 + β) = m (1 + m) S(m),     m = m_a + β.

As in `_branch`, w is the point where s_a = −m_a = E d/(d − w), with the variances of the weights
included in d; u is the same for the law of 1: −β = 1/(1 − u). With g matrices of independent
entries in a,

    G² = (1 + m_a)^(2 − g)/w = u/(1 − u)²,     λ = (1 + m)²/G².

References: Haagerup and Schultz (2007), Brown measures of unbounded operators affiliated with a
finite von Neumann algebra, proposition 3.5; Haagerup and Larsen (2000), for S of R-diagonal a.
"""

import math
from typing import NamedTuple

from jaxtyping import Complex, Float

from theory.numerics import Array, complex_of, xp


def softplus(nu: Complex[Array, "*points"]) -> Complex[Array, "*points"]:
    """log(1 + e^ν) = −log(1 − s)."""
    positive = nu.real > 0
    small = xp.where(positive, -nu, nu)
    grown = xp.exp(small)
    log = xp.where(_cancels(grown), xp.log(_one_more(small)), xp.log1p(grown))
    return xp.where(positive, nu + log, log)


def share(nu: Complex[Array, "*points"]) -> Complex[Array, "*points"]:
    """s = e^ν/(1 + e^ν)."""
    positive = nu.real > 0
    small = xp.where(positive, -nu, nu)
    grown = xp.exp(small)
    whole = xp.where(_cancels(grown), _one_more(small), 1 + grown)
    return xp.where(positive, 1 / whole, grown / whole)


def _cancels(grown: Complex[Array, "*points"]) -> Array:
    """Where 1 + e^ν loses digits."""
    return xp.abs(1 + grown) < 0.5


def _one_more(nu: Complex[Array, "*points"]) -> Complex[Array, "*points"]:
    """1 + e^ν, to full relative accuracy close to ν = ±iπ."""
    half = (nu.imag - xp.where(nu.imag > 0, math.pi, -math.pi)) / 2
    size, sine = xp.exp(nu.real), xp.sin(half)
    real = 2 * sine * sine * size - xp.expm1(nu.real)
    return complex_of(real, -xp.sin(2 * half) * size)


class Sum(NamedTuple):
    """s and 1 − s of 1 + a, from those of a and of 1."""

    below: Array
    rest: Array
    one: Array
    """−β."""
    other: Array
    """1 + β."""


def summed(below: Array, rest: Array, partner: Array) -> Sum:
    """Add s_a and the s of 1, given s_a, 1 − s_a and log u."""
    one, other = share(1j * math.pi - partner), share(partner - 1j * math.pi)
    # The same result in two ways; use the one with smaller terms.
    first = xp.abs(other) + xp.abs(below) < xp.abs(rest) + xp.abs(one)
    return Sum(below + one, xp.where(first, other - below, rest - one), one, other)


def log_square(partner: Array) -> Array:
    """log G²."""
    return partner - 2j * math.pi - 2 * softplus(partner - 1j * math.pi)


def log_lambda_of_sum(partner: Array, nu: Array) -> Array:
    """log λ of the layer."""
    return -2 * softplus(nu) - log_square(partner)


def angle_of_sum(
    angle: Array, below: Array, log_rest: Array, partner: Array, nu: Array, independent: Array
) -> Array:
    """Im E log(1 − μ/λ), μ the eigenvalues of the layer.

    It follows from E arg(1 − d/w), s_a and log(1 − s_a): the integrals of m d log λ add up,
    except for 2 log of (1 + m_a)(1 + β)/(1 + m).
    """
    rotated = partner - 1j * math.pi
    one, rest = (rotated - softplus(rotated)).imag, log_rest.imag
    return angle - independent * (below.imag + rest) + one + 2 * rest + 2 * softplus(nu).imag


def real_partner(log_square: Float[Array, "*points"]) -> Float[Array, "*points"]:
    """log u > 0 at λ > 0 outside the spectrum; −log u is the other solution."""
    return 2 * xp.arcsinh(xp.exp(-log_square / 2) / 2)
