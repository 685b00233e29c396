"""Length and correlation maps of one layer in closed form, by mpmath.

Notation: F(q, x) = σ_w² E φ(u)φ(v) for two Gaussian inputs of length q and 1 − c = x, and S(q, x)
its slope σ_w² E φ'(u)φ'(v); the bias and noise come on top.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp

DIGITS = 80


@dataclass(frozen=True)
class PairMap:
    """One activation with σ_w² = 1; `lost` is F(q, 0) − F(q, x)."""

    length: Callable
    rate: Callable
    """∂F(q, 0)/∂q."""
    lost: Callable
    slope: Callable

    def fixed_length(self, w, b):
        """q = w F(q) + b from above, where F is concave."""
        q = w * self.length(mp.mpf(10) ** 6 + w) + b
        for _ in range(200):
            new = q - (q - w * self.length(q) - b) / (1 - w * self.rate(q))
            if abs(new - q) <= mp.mpf(10) ** (10 - DIGITS) * q:
                return new
            q = new
        raise ArithmeticError("no fixed point of the length")

    def fixed_separation(self, w, q, noise=0):
        """x = (noise + w · lost)/q, the largest root up to 1; 0 where there is no other."""
        ratio = lambda x: (noise + w * self.lost(q, x)) / (q * x) - 1
        low, high = mp.mpf(10) ** -45, mp.mpf(1)
        if ratio(low) <= 0:
            return mp.mpf(0)
        if ratio(high) >= 0:
            return high
        low, high = mp.log(low), mp.mpf(0)
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if ratio(mp.exp(middle)) > 0 else (low, middle)
        x = mp.exp((low + high) / 2)
        for _ in range(5):
            x -= (noise + w * self.lost(q, x) - q * x) / (w * q * self.slope(q, x) - q)
        return x


def _erf_lost(q, x):
    a = 2 * q / (1 + 2 * q)
    return 2 / mp.pi * (mp.asin(a) - mp.asin(a * (1 - x)))


def _erf_slope(q, x):
    return 4 / mp.pi / mp.sqrt(1 + 4 * q + 4 * q * q * x * (2 - x))


ERF = PairMap(
    lambda q: 2 / mp.pi * mp.asin(2 * q / (1 + 2 * q)),
    lambda q: 4 / mp.pi / (1 + 2 * q) / mp.sqrt(1 + 4 * q),
    _erf_lost,
    _erf_slope,
)

SIN = PairMap(
    lambda q: (1 - mp.exp(-2 * q)) / 2,
    lambda q: mp.exp(-2 * q),
    lambda q, x: (1 - mp.exp(-q * x)) * (1 + mp.exp(-q * (2 - x))) / 2,
    lambda q, x: (mp.exp(-q * x) + mp.exp(-q * (2 - x))) / 2,
)

SIGN = PairMap(
    lambda q: mp.mpf(1),
    lambda q: mp.mpf(0),
    lambda q, x: 1 - 2 / mp.pi * mp.asin(1 - x),
    lambda q, x: 2 / mp.pi / q / mp.sqrt(x * (2 - x)) if x > 0 else mp.inf,
)

RELU = PairMap(
    lambda q: q / 2,
    lambda q: mp.mpf(1) / 2,
    lambda q, x: q * (x / 2 - _angle_gap(x) / (2 * mp.pi)),
    lambda q, x: (mp.pi - mp.acos(1 - x)) / (2 * mp.pi),
)


def _angle_gap(x):
    theta = mp.acos(1 - x)
    return mp.sin(theta) - theta * mp.cos(theta)


def _step_lost(q, x):
    """1[z > 1]: the integral of q times the density of both at 1, in t = √x."""
    return mp.quad(lambda t: 2 * t * q * _step_slope(q, t * t), [0, mp.sqrt(x)])


def _step_slope(q, x):
    if x == 0:
        return mp.inf
    return mp.exp(-1 / (q * (2 - x))) / (2 * mp.pi * q * mp.sqrt(x * (2 - x)))


STEP = PairMap(
    lambda q: mp.erfc(1 / mp.sqrt(2 * q)) / 2,
    lambda q: mp.exp(-1 / (2 * q)) / mp.sqrt(2 * mp.pi * q) / (2 * q),
    _step_lost,
    _step_slope,
)
