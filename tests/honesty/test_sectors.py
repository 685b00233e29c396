"""Multipliers by sector, O(k), U(m) and Sp(m), against integrals over the radius by NumPy.

φ(z) = g(r) z/r has the Jacobian a nnᵀ + b (1 − nnᵀ) with a = g', b = g/r. Averaged over the
directions n in k dimensions, σ_w² tr(SᵀJSJᵀ)/tr SᵀS is σ_w² times

- (a² + (k − 1) b²)/k for the identity,
- b² + 2 b (a − b)/k for a rotation, on average g²/(k q), whose terms do not cancel,
- the same + 2 (a − b)²/(k (k + 2)) for a traceless symmetric S.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import theory
from tests.honesty.campaign import Campaign
from theory import Estimate
from theory.numerics._compiled import hasty_options

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
PROFILES = {
    "tanh": (theory.radial("tanh"), np.tanh, lambda r: np.cosh(np.minimum(r, 300)) ** -2.0, ()),
    "erf": (
        theory.radial("erf"),
        erf,
        lambda r: 2 / math.sqrt(math.pi) * np.exp(-r * r),
        (),
    ),
    "threshold": (
        theory.radial("threshold", threshold=0.7),
        lambda r: np.maximum(r - 0.7, 0),
        lambda r: 1.0 * (r > 0.7),
        (0.7,),
    ),
    "rational": (
        theory.radial(lambda r: r / (1 + r * r), scale=0.7),
        lambda r: r / (1 + r * r),
        lambda r: (1 - r * r) / (1 + r * r) ** 2,
        (),
    ),
}
ALGEBRAS = [
    *((k, "real") for k in (2, 3, 4, 8, 64)),
    *((k, "complex") for k in (2, 4, 8, 64)),
    *((k, "quaternion") for k in (4, 8, 64)),
]


def averages(g, slope, kinks, q, k):
    """E of a², (a − b)², b², g² and g over ρ = r/√q, of the χ law with k degrees of freedom."""
    root = math.sqrt(q)
    edges = np.geomspace(1e-9, 12 + math.sqrt(k), 120)
    inside = [t / root for t in kinks if t / root < edges[-1]]
    edges = np.unique(np.concatenate([[0.0], edges, inside]))
    half = np.diff(edges)[:, None] / 2
    rho = (edges[:-1, None] + half * (1 + _NODES)).ravel()
    log = (k - 1) * np.log(rho) - rho * rho / 2 - (k / 2 - 1) * math.log(2) - math.lgamma(k / 2)
    weight = (half * _WEIGHTS).ravel() * np.exp(log)
    r = root * rho
    a, b = slope(r), g(r) / r
    gap = a - b
    return (math.fsum(weight * v) for v in (a * a, gap * gap, b * b, g(r) ** 2, g(r)))


def truth(name, w, q, k, algebra):
    _, g, slope, kinks = PROFILES[name]
    aa, gap, bb, square, mean = averages(g, slope, kinks, q, k)
    rotation = w * square / (k * q)
    shear = rotation + w * 2 * gap / (k * (k + 2))
    size = w * (aa + (k - 1) * bb) / k
    # of a single complex or quaternionic number no shear commutes with the weights
    commuting = {"real": k, "complex": k // 2, "quaternion": k // 4}[algebra]
    return rotation, size, shear if commuting > 1 else None, mean


@functools.cache
def program(name, k, algebra):
    phi = PROFILES[name][0]

    def numbers(w, b, q):
        body = theory.layer(phi, w, b, components=k, algebra=algebra)
        exact = Estimate(q, jnp.zeros_like(q), jnp.zeros_like(q, jnp.int8))
        found = theory.sectors(body, exact)
        return found.goldstone, found.trace, found.symmetric_traceless, found.order_parameter

    return jax.jit(numbers, compiler_options=hasty_options())


def campaign(cases, profiles=tuple(PROFILES), algebras=ALGEBRAS, seed=0):
    judge, rng = Campaign("sectors of O(k), U(m), Sp(m)"), np.random.default_rng(seed)
    each = max(cases // (4 * len(profiles) * len(algebras)), 1)
    for name in profiles:
        for k, algebra in algebras:
            for _ in range(each):
                w, b, q = np.exp(rng.uniform(np.log([1e-8] * 3), np.log([1e6] * 3)))
                found = program(name, k, algebra)(w, b, jnp.asarray(q))
                label = f"{name} {algebra} k={k} w={w!r} b={b!r} q={q!r}"
                for part, estimate, exact in zip(
                    ("rotation", "trace", "shear", "order"),
                    found,
                    truth(name, w, q, k, algebra),
                    strict=True,
                ):
                    there = not bool(np.isnan(estimate.value))
                    if exact is None or not there:
                        judge.claim(f"{label} {part}", there, exact is not None)
                        continue
                    # Rounding of the density of the radius.
                    slack = (2e-15 + 2e-16 * k) * abs(exact)
                    judge.number(
                        f"{label} {part}", estimate.value, estimate.error, exact, truth_error=slack
                    )
    return judge


@pytest.mark.parametrize(
    ("cases", "profiles", "algebras"),
    [
        (60, ["tanh"], [(4, "complex"), (4, "quaternion")]),
        pytest.param(10_000, PROFILES, ALGEBRAS, marks=pytest.mark.slow),
    ],
)
def test_no_sector_lies(cases, profiles, algebras):
    campaign(cases, tuple(profiles), algebras).check(most_unknown=0.05)
