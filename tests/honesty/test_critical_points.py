"""Critical points: lengths, variances, multipliers, stability and their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import theory
from tests.honesty.campaign import Campaign
from theory import Stability, Status

# Nodes of the oracle: 64 by Gauss and Legendre on each panel, in double precision.
_X, _W = np.polynomial.legendre.leggauss(64)


# φ and φ' in NumPy.
def _tanh(z):
    e = np.exp(-2 * np.abs(z))
    return np.tanh(z), 4 * e / (1 + e) ** 2


def _sigmoid(z):
    return special.expit(z), special.expit(z) * special.expit(-z)


def _gelu(z):
    p = special.ndtr(z)
    return z * p, p + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)


def _silu(z):
    s = special.expit(z)
    return z * s, s + z * s * special.expit(-z)


def _mish(z):
    t, d = _tanh(np.logaddexp(0, z))
    return z * t, t + z * d * special.expit(z)


def _elu(z):
    below = np.minimum(z, 0)
    return np.where(z > 0, z, np.expm1(below)), np.where(z > 0, 1, np.exp(below))


def _bump(z):
    return z * np.exp(-z * z), (1 - 2 * z * z) * np.exp(-z * z)


def _numeric(fn):
    """E φ², E φ'² and ∂E φ²/∂q over panels that double in length, from 1/64 on."""

    def moments(q):
        steps = np.concatenate([[0], 2.0 ** np.arange(-6, 20)])
        ends = np.unique(
            np.minimum(np.concatenate([steps, np.sqrt(q) * np.arange(11)]), 10 * q**0.5)
        )
        half = np.diff(ends)[:, None] / 2
        u = (ends[:-1, None] + half * (1 + _X)).ravel()
        weight = (half * _W).ravel() * np.exp(-u * u / (2 * q)) / np.sqrt(2 * np.pi * q)
        (f, d), (g, e) = fn(u), fn(-u)
        rate = (f * d - g * e) * u / q
        return tuple(np.sum(weight * y) for y in (f * f + g * g, d * d + e * e, rate))

    return moments


_PI = 2 * np.arccos(np.longdouble(0))


def _erf(q):
    q = np.longdouble(q)
    root = np.sqrt(1 + 4 * q)
    return 2 / _PI * np.arctan2(2 * q, root), 4 / _PI / root, 4 / _PI / (1 + 2 * q) / root


def _sin(q):
    q = np.longdouble(q)
    return -np.expm1(-2 * q) / 2, (1 + np.exp(-2 * q)) / 2, np.exp(-2 * q)


def _hard_tanh(q):
    inside, edge = special.erf(1 / np.sqrt(2 * q)), np.sqrt(2 / np.pi) * np.exp(-1 / (2 * q))
    square = q * inside - np.sqrt(q) * edge + special.erfc(1 / np.sqrt(2 * q))
    return square, inside, inside - edge / np.sqrt(q)


CASES = {
    "erf": (_erf, theory.activation("erf")),
    "sin": (_sin, theory.activation("sin")),
    "silu": (_numeric(_silu), theory.activation("silu")),
    "hard_tanh": (_hard_tanh, theory.activation("hard_tanh")),
    "tanh": (_numeric(_tanh), theory.activation("tanh")),
    "gelu": (_numeric(_gelu), theory.activation("gelu")),
    "mish": (
        _numeric(_mish),
        theory.componentwise(lambda z: z * jnp.tanh(jax.nn.softplus(z)), scale=2.0, name="mish"),
    ),
    "elu": (_numeric(_elu), theory.activation("elu")),
    "sigmoid": (_numeric(_sigmoid), theory.activation("sigmoid")),
    "bump": (
        _numeric(_bump),
        theory.componentwise(lambda z: z * jnp.exp(-z * z), parity="odd", name="bump"),
    ),
}


def _line(moments, q):
    """σ_w², σ_b² and λ."""
    square, slope, rate = moments(q)
    return np.array([1 / slope, q - square / slope, rate / slope])


def _lengths(random, cases):
    """Log-uniform, and every third a node of the search to within a few roundings."""
    q = 10 ** random.uniform(-5, 5, cases)
    nodes = np.geomspace(1e-10, 1e6, 193)
    nodes = random.choice(nodes[(nodes > 1e-5) & (nodes < 1e5)], cases)
    nodes = nodes * (1 + random.integers(-4, 5, cases) * np.finfo(float).eps)
    return np.where(np.arange(cases) % 3 == 0, nodes, q)


def campaign(cases, names, seed=0) -> Campaign:
    """σ_b² of an independent line goes in; length, σ_w² and λ must come out."""
    judge, random = Campaign("critical points"), np.random.default_rng(seed)
    grid = np.geomspace(1e-6, 1e7, 1500)
    for name in names:
        moments, phi = CASES[name]
        along = np.array([_line(moments, q)[1] for q in grid])
        q = _lengths(random, cases // len(names))
        true = np.array([_line(moments, each) for each in q])
        keep = true[:, 1] > 0
        q, true = q[keep], true[keep]
        beside = [np.array([_line(moments, s * each) for each in q]) for s in (0.9999, 1.0001)]
        rate = (beside[1] - beside[0]) / (2e-4 * q[:, None])
        extremal = rate[:, 1] == 0  # σ_b² says nothing of the length there
        q, true, rate = q[~extremal], true[~extremal], rate[~extremal]
        find = jax.jit(jax.vmap(lambda b, phi=phi: theory.critical_points(phi, b)))
        found = jax.tree.map(np.asarray, find(jnp.asarray(true[:, 1].astype(float))))
        # Rounding of σ_b², of a difference of lengths, moves the point that belongs to it.
        true, rate = (a.astype(float) for a in (true, rate))
        eps = np.finfo(float).eps
        exact = name in ("erf", "sin")
        rounding = eps * true[:, 1] + 1e-18 * q if exact else 8 * eps * q
        moved = rounding / np.abs(rate[:, 1])
        for i, each in enumerate(q):
            label = f"{name} at q = {each!r}"
            there = np.isfinite(found.length.value[i])
            place = (
                int(np.nanargmin(np.abs(np.log(found.length.value[i] / each)))) if any(there) else 0
            )
            truths = {
                "length": (each, moved[i]),
                "weight_variance": (true[i, 0], abs(rate[i, 0]) * moved[i] + 1e-15 * true[i, 0]),
                "multiplier": (
                    true[i, 2],
                    abs(rate[i, 2]) * moved[i] + (1e-15 if exact else 1e-14),
                ),
            }
            for field, (truth, slack) in truths.items():
                estimate = getattr(found, field)
                value, error = estimate.value[i, place], estimate.error[i, place]
                judge.number(f"{label}, {field}", value, error, truth, truth_error=slack)
                absent = estimate.status[i, place] == Status.ABSENT
                judge.claim(f"{label}, {field} is there", absent, False)
            # Where rounding of σ_b² may move λ across 1 nothing is claimed.
            unknown = found.stability[i, place] == Stability.UNKNOWN
            kind = Stability.STABLE if abs(true[i, 2]) < 1 else Stability.UNSTABLE
            if abs(true[i, 2] - 1) > 2 * abs(rate[i, 2]) * moved[i] + 1e-13:
                said = int(found.stability[i, place])
                judge.claim(f"{label}, stability", said, int(kind), unknown=bool(unknown))
            signs = np.sign(along - true[i, 1])
            count = int(np.sum(signs[1:] != signs[:-1]))
            sure = np.min(np.abs(along / true[i, 1] - 1)) > 1e-9 and count <= 3
            if sure and along[0] < true[i, 1]:
                said = int(np.sum(found.length.status[i] != Status.ABSENT))
                judge.claim(f"{label}, number of points", said, count)
    return judge


@pytest.mark.parametrize(
    ("cases", "names"),
    [(60, ["erf"]), pytest.param(10_000, list(CASES), marks=pytest.mark.slow)],
)
def test_critical_points_keep_their_promise(cases, names):
    campaign(cases, names).check(most_unknown=0.02)
