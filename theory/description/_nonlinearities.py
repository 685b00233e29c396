"""The named nonlinearities, as functions whose derivatives stay accurate where they are small.

JAX computes the derivatives of tanh, sigmoid and expm1 from their values, as 1 − t², s(1 − s)
and e + 1. Where the function saturates, the result is rounding error, and then zero. Here a
derivative is a function of z itself, and so are its own derivatives, to any order. Functions
below that are built from these few need no rule of their own: their derivatives are sums of
terms that cancel at most near a zero of the whole.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from theory.numerics import Array

Elementwise: TypeAlias = Callable[..., Any]


def with_slope_from(slope: Elementwise) -> Callable[[Elementwise], Elementwise]:
    """Decorate a function of z with this derivative."""

    def decorate(fn: Elementwise) -> Elementwise:
        known = jax.custom_jvp(fn)
        known.defjvps(lambda t, value, z: slope(z) * t)
        return known

    return decorate


def _bump_slope(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return -bump(z) * tanh(0.5 * z)


@with_slope_from(_bump_slope)
def bump(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1/(1 + e⁻ᶻ)(1 + eᶻ), the derivative of the sigmoid."""
    return jax.lax.logistic(z) * jax.lax.logistic(-z)


@with_slope_from(bump)
def sigmoid(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1/(1 + e⁻ᶻ)."""
    return jax.lax.logistic(z)


def _sech_square_slope(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return -2 * tanh(z) * sech_square(z)


@with_slope_from(_sech_square_slope)
def sech_square(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1/cosh² z, the derivative of tanh."""
    small = jnp.exp(-2 * jnp.abs(z))
    return 4 * small / ((1 + small) * (1 + small))


@with_slope_from(sech_square)
def tanh(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """tanh(z)."""
    return jnp.tanh(z)


@with_slope_from(jnp.exp)
def expm1(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """eᶻ − 1."""
    return jnp.expm1(z)


@with_slope_from(sigmoid)
def softplus(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + eᶻ)."""
    return jax.nn.softplus(z)


_BEYOND = 100.0
"""Here the tail of a Gaussian is zero in any precision, and everything is still finite."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def gaussian(z: Float[Array, "*shape"], half: bool) -> Float[Array, "*shape"]:
    """exp(−z²), or with `half` exp(−z²/2).

    Rounding the square would cost z² roundings. The square of the leading half of the digits is
    exact, and the remainder is small.
    """
    z, by = jnp.asarray(z), 0.5 if half else 1.0
    kind = jnp.finfo(z.dtype)
    z = jnp.minimum(jnp.abs(z), _BEYOND)
    coarse = jax.lax.reduce_precision(z, kind.nexp, (kind.nmant - 1) // 2)
    rest = by * ((z - coarse) * (z + coarse))
    less = 1 - rest * (1 - rest * (1 / 2 - rest * (1 / 6 - rest * (1 / 24))))
    return jnp.exp(-by * (coarse * coarse)) * less


@gaussian.defjvp
def _(half, primals, tangents):
    (z,), (t,) = primals, tangents
    value = gaussian(z, half)
    return value, (-z if half else -2 * z) * value * t


@with_slope_from(lambda z: 2 / math.sqrt(math.pi) * gaussian(z, False))
def erf(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """erf(z)."""
    return jax.lax.erf(z)


_MILLS = {
    False: (
        0.46151582985003775,
        -0.09155228183400904,
        0.031030368425962847,
        0.010002352385229382,
        -0.026401042966267253,
        0.024536963243678652,
        -0.015170415403281224,
        0.006522000667783896,
        -0.0016760723371645697,
        7.791597409338999e-06,
        0.00018233410307611755,
        -5.36075811148722e-05,
        -9.895946159334735e-06,
        9.05982468125664e-06,
        -7.070628846317715e-08,
        -1.3074486019237587e-06,
        1.284479710649634e-07,
        1.9627809920091187e-07,
        -2.688202129280215e-08,
        -3.095201755804207e-08,
        4.022493382168717e-09,
        4.4011596227599254e-09,
        -4.327297110082094e-10,
        -3.815816262632953e-10,
        2.5086998016985133e-11,
    ),
    True: (
        4.61515834e-01,
        -9.15522998e-02,
        3.10300332e-02,
        1.00028625e-02,
        -2.63971212e-02,
        2.45328049e-02,
        -1.51872134e-02,
        6.53666845e-03,
        -1.64348857e-03,
        -1.78487401e-05,
        1.53100269e-04,
        -3.10484045e-05,
    ),
}
"""Chebyshev interpolants, in powers of t = (x − 5)/(x + 5), of (1 + x) exp(x²/2) P(u > x) on
x ≥ 0, to 1.0e-17 and (True, for float32) to 1.2e-8; u is standard normal."""


@with_slope_from(lambda z: 1 / math.sqrt(2 * math.pi) * gaussian(z, True))
def normal_cdf(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """P(u < z) for a standard normal u."""
    x = jnp.minimum(jnp.abs(z), _BEYOND)
    inverse = 1 / ((x + 5) * (x + 1))
    t = (x - 5) * (x + 1) * inverse
    ratio = jnp.zeros_like(t)
    for coefficient in reversed(_MILLS[bool(jnp.finfo(t.dtype).eps > 1e-10)]):
        ratio = coefficient + t * ratio
    tail = gaussian(z, True) * ratio * (x + 5) * inverse
    return jnp.where(z < 0, tail, 1 - tail)


def gelu(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """z P(u < z) for a standard normal u."""
    return z * normal_cdf(z)


def gelu_tanh(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """z (1 + tanh y)/2 = z sigmoid(2y), which keeps its digits as z → −∞."""
    # The cube must not overflow where it is not used.
    square = jnp.where(jnp.abs(z) < _BEYOND, z * z, _BEYOND**2)
    return z * sigmoid(2 * math.sqrt(2 / math.pi) * z * (1 + 0.044715 * square))


def silu(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """z/(1 + e⁻ᶻ)."""
    return z * sigmoid(z)


def _elu(z: Float[Array, "*shape"], alpha: Any) -> Float[Array, "*shape"]:
    negative = jnp.where(z > 0, 0, z)  # exp(z) must not overflow where it is not used
    return jnp.where(z > 0, z, alpha * expm1(negative))


def selu(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A scaled elu for which mean 0 and variance 1 are a fixed point."""
    return 1.0507009873554804934193349852946 * _elu(z, 1.6732632423543772848170429916717)


class LeakyRelu(eqx.Module):
    """z for z ≥ 0 and negative_slope z otherwise."""

    negative_slope: Float[Array, ""]

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.where(z >= 0, z, self.negative_slope.astype(z.dtype) * z)


class Elu(eqx.Module):
    """z for z > 0 and alpha (exp(z) - 1) otherwise."""

    alpha: Float[Array, ""]

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return _elu(z, self.alpha.astype(z.dtype))


class Threshold(eqx.Module):
    """max(r − threshold, 0)."""

    threshold: Float[Array, ""]

    def __call__(self, r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jax.nn.relu(r - self.threshold.astype(r.dtype))
