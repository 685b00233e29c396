"""Lengths, slopes, multipliers, depth scales and phases against exact maps, iterated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.compiling import hastily
from tests.honesty.campaign import Campaign
from theory import Phase, Status
from theory.phases._attractor import attractor
from theory.phases._prediction import at_length, phase_of

L = np.longdouble
PI = L("3.14159265358979323846264338327950288")


class Exact:
    """A length map: E φ², its derivative by q, and E φ'², all in extended precision."""

    def __init__(self, activation, square, rate, slope, critical, *, k=1, monotonic=True):
        self.activation, self.k, self.critical = activation, k, critical
        self.square, self.rate, self.slope = square, rate, slope
        self.monotonic = monotonic


def _erf_square(q):
    # asin(2q/(1 + 2q)) by atan, which keeps its digits
    return 2 / PI * np.arctan2(2 * q, np.sqrt(1 + 4 * q))


def _bump(k):
    """g = r exp(−r²): E r² exp(−2r²)/k = q (1 + 4q)^(−k/2 − 1)."""
    p = L(k) / 2
    t = lambda q: 1 + 4 * q
    square = lambda q: q * t(q) ** (-p - 1)
    rate = lambda q: t(q) ** (-p - 2) * (1 - 4 * p * q)
    # (g'² + (k − 1) g²/r²)/k = e^(−2r²)(1 − 4r²/k + 4r⁴/k), E ρ² e^… = k t^(−p−1), …
    slope = lambda q: t(q) ** -p - 4 * q * t(q) ** (-p - 1) + 4 * q**2 * (k + 2) * t(q) ** (-p - 2)
    phi = theory.radial(lambda r: r * jnp.exp(-(r**2)), name="bump")
    return Exact(phi, square, rate, slope, 1.0, k=k, monotonic=False)


def _leaky(a):
    half = (1 + L(a) ** 2) / 2
    phi = theory.activation("leaky_relu", negative_slope=a) if a else theory.activation("relu")
    return Exact(phi, lambda q: half * q, lambda q: half + 0 * q, lambda q: half + 0 * q, 1 / half)


MAPS = [
    _leaky(0.0),
    _leaky(0.3),
    Exact(
        theory.activation("erf"),
        _erf_square,
        lambda q: 4 / PI / ((1 + 2 * q) * np.sqrt(1 + 4 * q)),
        lambda q: 4 / PI / np.sqrt(1 + 4 * q),
        PI / 4,
    ),
    Exact(
        theory.activation("sin"),
        lambda q: -np.expm1(-2 * q) / 2,
        lambda q: np.exp(-2 * q),
        lambda q: (1 + np.exp(-2 * q)) / 2,
        1.0,
    ),
    Exact(
        theory.componentwise(lambda z: z**3, parity="odd", scale=1e9, name="cube"),
        lambda q: 15 * q**3,
        lambda q: 45 * q**2,
        lambda q: 27 * q**2,
        None,
    ),
    _bump(8),
    _bump(2),
]


def _variances(case, count, rng):
    w, b = 10 ** rng.uniform(-8, 6, (2, count))
    b = np.where(rng.random(count) < 0.3, 0.0, b)
    if case.critical is not None:
        # a third at distances of 1e-2 to 1e-14 from what is critical without bias
        near = float(case.critical) * (
            1 + rng.choice([-1, 1], count) * 10 ** rng.uniform(-14, -2, count)
        )
        w = np.where(rng.random(count) < 0.33, near, w)
    return w, b


@hastily
def _found(activation, k, w, b):
    def one(w, b):
        reached = attractor(theory.layer(activation, w, b, components=k))
        return at_length(reached, 1e-10), phase_of(reached, jnp.asarray(True), 1e-10)

    return jax.vmap(one)(w, b)


def _iterate(case, w, b):
    """The same for maps that fall somewhere, all at once, by iteration."""
    w, b = w.astype(L), b.astype(L)
    q = np.ones_like(w)
    for _ in range(30000):
        q = w * case.square(q) + b
    ring = [q]
    for _ in range(64):
        ring.append(w * case.square(ring[-1]) + b)
    moved = np.max(np.abs(np.stack(ring) - q), axis=0) / np.maximum(q, L("1e-300"))
    kinds = np.where(moved <= 1e-15, "point", np.where(moved > 1e-3, "cycle", "unknown"))
    low = q < 1e-40
    return np.where(low, "point", kinds), np.where(low, L(0), q)


def _settle(case, w, b):
    """Where q = 1 goes: (kind, q), by the exact map."""
    w, b = L(w), L(b)
    after = lambda q: w * case.square(q) + b
    q = L(1)
    # A map that rises: the next root in the direction of the first step, by its logarithm.
    h = lambda q: (after(q) - q) / q
    if h(q) == 0:
        return "point", q
    up = h(q) > 0
    step = L("1.05") if up else 1 / L("1.05")
    far = q
    while (h(far) > 0) == up and L("1e-60") < far < L("1e60"):
        far = far * step
    if not L("1e-60") < far < L("1e60"):
        return ("divergent" if up else "point"), L(0)
    low, high = sorted((far, far / step))
    falls = h(low) > 0
    for _ in range(90):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if (h(middle) > 0) == falls else (low, middle)
    return "point", np.sqrt(low * high)


def campaign(cases, seed=0):
    found = Campaign("fixed points of the length")
    rng = np.random.default_rng(seed)
    each = -(-cases // (5 * len(MAPS)))
    for case in MAPS:
        w, b = _variances(case, each, rng)
        numbers, phases = jax.tree.map(
            np.asarray, _found(case.activation, case.k, jnp.asarray(w), jnp.asarray(b))
        )
        if case.monotonic:
            ends = [_settle(case, *each) for each in zip(w, b, strict=True)]
        else:
            ends = list(zip(*_iterate(case, w, b), strict=True))
        for i, end in enumerate(ends):
            one = {n: jax.tree.map(lambda a, i=i: a[i], e) for n, e in numbers.items()}
            _judge(found, case, w[i], b[i], end, one, phases[i])
    return found


def _judge(found, case, w, b, end, numbers, phase):
    name = f"{case.activation.name} k={case.k} ({w!r}, {b!r})"
    kind, q = end
    if kind == "unknown":
        return
    length = numbers["length"]
    if kind == "cycle":
        said = phase != Phase.UNKNOWN
        found.claim(f"{name} phase", int(phase), int(Phase.UNSETTLED), unknown=not said)
        found.claim(f"{name} q", int(length.status), int(Status.NOT_CONVERGED))
        return
    if kind == "divergent":
        sure = length.status == Status.INFINITE
        unknown = length.status == Status.NOT_CONVERGED or np.isinf(length.error)
        found.claim(f"{name} q", bool(sure), True, unknown=bool(unknown))
        found.claim(
            f"{name} phase", int(phase), int(Phase.DIVERGENT), unknown=phase == Phase.UNKNOWN
        )
        return
    rate, slope = (float(L(w)) * fn(q) for fn in (case.rate, case.slope))
    found.number(f"{name} q", length.value, length.error, q)
    found.claim(f"{name} no fixed point", bool(length.status == Status.INFINITE), False)
    for label, value in (("multiplier", rate), ("slope", slope)):
        each = numbers[label]
        found.number(f"{name} {label}", each.value, each.error, value)
    scale = numbers["depth_scale_length"]
    size = abs(rate)
    if size not in (0, 1):
        found.number(f"{name} ξ", scale.value, scale.error, -1 / np.log(size))
    # The word: the tolerance is 1e-10, and errors blur it.
    blur = 1e-10 + 2 * float(np.nan_to_num(numbers["slope"].error, nan=np.inf))
    true = Phase.ORDERED if slope < 1 else Phase.CHAOTIC
    close = abs(slope - 1) <= blur
    vague = phase == Phase.UNKNOWN or (phase == Phase.DIVERGENT and np.isinf(length.error))
    found.claim(
        f"{name} phase",
        int(phase),
        int(Phase.CRITICAL if close and phase == Phase.CRITICAL else true),
        unknown=bool(vague),
    )


@pytest.mark.slow
@pytest.mark.parametrize("cases", [350, 10_000])
def test_lengths_never_lie(cases):
    campaign(cases).check(most_unknown=0.05)
