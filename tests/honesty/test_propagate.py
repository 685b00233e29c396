"""`propagate` against recursions in closed form, with 120 digits."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign

DEPTH = 6
mp.mp.dps = 120


def erf_pair(qa, qb, c):
    top = 2 * c / mp.sqrt((1 + 2 * qa) * (1 + 2 * qb))
    slope = 4 / mp.pi / mp.sqrt((1 + 2 * qa) * (1 + 2 * qb) - 4 * c * c)
    return 2 / mp.pi * mp.asin(top), slope


def relu_pair(qa, qb, c):
    root = mp.sqrt(qa * qb)
    angle = mp.acos(max(min(c / root, mp.mpf(1)), mp.mpf(-1)))
    away = mp.pi - angle
    return root / (2 * mp.pi) * (mp.sin(angle) + away * mp.cos(angle)), away / (2 * mp.pi)


def sin_pair(qa, qb, c):
    near, far = mp.exp(c - (qa + qb) / 2), mp.exp(-c - (qa + qb) / 2)
    return (near - far) / 2, (near + far) / 2


PAIRS = {"erf": erf_pair, "relu": relu_pair, "sin": sin_pair, "linear": lambda qa, qb, c: (c, 1)}
EPSILON = 1e-5


class Truth:
    """Moments of two inputs, the squares of one tangent, and the product of it at both."""

    def __init__(self, qa, qb, s):
        self.q = [mp.mpf(qa), mp.mpf(qb)]
        self.c = (self.q[0] + self.q[1]) / 2 - mp.mpf(s)
        self.t = [mp.mpf(1)] * 3

    def affine(self, w, b):
        w, b = mp.mpf(w), mp.mpf(b)
        self.q, self.c = [w * q + b for q in self.q], w * self.c + b
        self.t = [w * t for t in self.t]

    def layer(self, name, w, b, *, add=False, norm=False):
        pair, q = PAIRS[name], self.q
        before = q, self.c, self.t
        own = [pair(x, x, x) for x in q]
        both = pair(*q, self.c)
        slopes = [own[0][1], own[1][1], both[1]]
        self.q, self.c = [own[0][0], own[1][0]], both[0]
        self.t = [t * f for t, f in zip(self.t, slopes, strict=True)]
        self.affine(w, b)
        if norm:
            scale = [1 / (x + mp.mpf(EPSILON)) for x in self.q]
            cross = mp.sqrt(scale[0] * scale[1])
            self.q = [x * f for x, f in zip(self.q, scale, strict=True)]
            self.c = self.c * cross
            self.t = [t * f for t, f in zip(self.t, [*scale, cross], strict=True)]
        if add:
            self.q = [x + y for x, y in zip(self.q, before[0], strict=True)]
            self.c = self.c + before[1]
            self.t = [x + y for x, y in zip(self.t, before[2], strict=True)]

    def read(self):
        """The numbers, and how well they are known: a distance is a difference of lengths."""
        s = (self.q[0] + self.q[1]) / 2 - self.c
        log = lambda t: mp.log(t) if t > 0 else -mp.inf
        values = [*self.q, s, *map(log, self.t[:2]), self.t[2]]
        doubt = np.zeros(6)
        doubt[2] = sum(self.q) * mp.mpf(10) ** (10 - mp.mp.dps)
        return np.array([float(v) for v in values]), doubt


def network(kind, name, w, b):
    """One of three structures; w and b of every layer."""
    phi = theory.Pointwise(theory.activation(name))
    body = theory.Chain((phi, theory.Affine(theory.WeightLaw(w[1:]), b[1:])))
    first = theory.Affine(theory.WeightLaw(w[0]), b[0])
    if kind == "nested":  # two in a row, of which each is one layer of a repeat
        folded = jax.tree.map(lambda x: x.reshape(2, DEPTH // 2), body)
        shell = eqx.filter_vmap(lambda body: theory.Repeat(body, DEPTH // 2))(folded)
        return theory.Chain((first, theory.Repeat(shell, 2)))
    if kind == "residual":
        return theory.Chain((first, theory.Repeat(theory.Residual(body), len(w) - 1)))
    if kind == "normed":
        branch = theory.Chain((*body.parts, theory.Normalise("rms", EPSILON)))
        return theory.Chain((first, theory.Repeat(theory.Residual(branch), len(w) - 1)))
    return theory.Chain((first, theory.Repeat(body, len(w) - 1)))


@functools.cache
def program(kind, name):
    def run(w, b, q, s):
        four = lambda m: m[..., None, None]
        covariance = jnp.array([[q[0], jnp.mean(q) - s], [jnp.mean(q) - s, q[1]]])
        moments = theory.given_moments(four(covariance), four(s * (1 - jnp.eye(2))))
        found = theory.propagate(network(kind, name, w, b), moments)
        value, error = found.value, found.error
        own = lambda m: jnp.diagonal(m[..., 0, 0], axis1=1, axis2=2)
        log = value.log_gain + jnp.log(own(value.tangent))
        log_error = error.log_gain + own(error.tangent) / own(value.tangent)
        whole, doubt = value.whole_tangent, value.whole_tangent_error(error)
        pair = lambda tensor: tensor[:, 0, 1, 0]
        read = lambda m, *tangents: jnp.concatenate(
            [own(m.covariance), pair(m.separation), tangents[0], pair(tangents[1])], axis=1
        )
        return read(value, log, whole), read(error, log_error, doubt)

    return eqx.filter_jit(jax.vmap(run))


def draw(random, depth):
    """One case: mostly moderate variances, and any at all."""
    wide = random.random() < 0.3
    low, high = (1e-8, 1e6) if wide else (0.3, 4.0)
    w = np.exp(random.uniform(np.log(low), np.log(high), depth + 1))
    b = np.exp(random.uniform(np.log(1e-8), np.log(1.0), depth + 1)) * (random.random() < 0.8)
    q = np.exp(random.uniform(np.log(1e-8), np.log(1e6 if wide else 10.0), 2))
    if random.random() < 0.5:
        q[1] = q[0]
    mean = np.sqrt(q[0] * q[1])
    x = random.choice([10 ** random.uniform(-14, 0), 2 - 10 ** random.uniform(-14, 0)])
    s = (np.sqrt(q[0]) - np.sqrt(q[1])) ** 2 / 2 + mean * x
    return w, b, q, s


def compare(campaign, kind, name, cases, random, depth=DEPTH, layers=None):
    drawn = [draw(random, depth) for _ in range(cases)]
    stacked = [jnp.asarray(np.stack(part)) for part in zip(*drawn, strict=True)]
    values, errors = map(np.asarray, program(kind, name)(*stacked))
    for case, (w, b, q, s) in enumerate(drawn):
        truth = Truth(*q, s)
        truth.affine(w[0], b[0])
        for layer in range(depth + 1):
            if layer:
                how = {"add": kind in ("residual", "normed"), "norm": kind == "normed"}
                truth.layer(name, w[layer], b[layer], **how)
            if layers is None or layer in layers:
                label = f"{kind} {name} case {case} layer {layer}"
                got = values[case, layer], errors[case, layer]
                exact, doubt = truth.read()
                campaign.number(label, *got, exact, truth_error=doubt)


def campaign(cases, seed=0):
    random, found = np.random.default_rng(seed), Campaign("propagate")
    kinds = ["plain", "nested", "residual", "normed"] if cases > 1000 else ["nested"]
    names = PAIRS if cases > 1000 else ["erf"]
    each = -(-cases // (len(kinds) * len(names) * (DEPTH + 1) * 6))
    for kind in kinds:
        for name in names:
            compare(found, kind, name, each, random)
    return found


@pytest.mark.parametrize("cases", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_propagate_is_honest(cases):
    campaign(cases).check(most_unknown=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["erf", "sin"])
def test_ten_thousand_layers(name):
    """Of one law, ordered or chaotic; looked at over the whole depth."""
    found, depth = Campaign("propagate, 10⁴ layers"), 10_000
    w = np.full((2, depth + 1), [[1.2], [2.5]])
    b, q, s = np.full((2, depth + 1), 0.05), np.ones((2, 2)), np.array([0.3, 1e-9])
    values, errors = map(np.asarray, program("plain", name)(*map(jnp.asarray, (w, b, q, s))))
    for case in range(2):
        truth = Truth(*q[case], s[case])
        truth.affine(w[case, 0], b[case, 0])
        for layer in range(1, depth + 1):
            truth.layer(name, w[case, layer], b[case, layer])
            # The product of tangents leaves the range of numbers.
            if layer % 100 == 0:
                label = f"{name} case {case} layer {layer}"
                got = values[case, layer, :5], errors[case, layer, :5]
                exact, doubt = truth.read()
                found.number(label, *got, exact[:5], truth_error=doubt[:5])
    found.check(most_unknown=0.0)
