"""Spectra of Jacobians against free probability solved in complex numbers, by NumPy alone.

A layer's D² has the eigenvalues d, weights w: ψ(z) = Σ w d z/(1 − d z). With M = ψ(z), the
S-transform of D² is z (1 + M)/M; those of layers multiply, W brings 1/σ² (orthogonal) or
1/(σ² (1 + M)), and 1/λ = M/(1 + M) S_1 S_2 …. So log λ is an explicit function of z, the same for
each of the equal layers, and −Im M/π the density of log λ (Pennington, Schoenholz and Ganguli
2018).
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import theory
from tests.honesty.campaign import Campaign
from theory import activation

X = np.linspace(0, 10, 1201)
W = np.exp(-X * X / 2) * np.where(X > 0, 2, 1)


def atoms(*pairs):
    d, w = np.array(pairs, float).T
    return [(d, w)] * 2


def sampled(slope):
    """By the trapezoidal rule with all nodes and with every other one."""
    return [(slope[::n] ** 2, W[::n] / np.sum(W[::n])) for n in (1, 2)]


LAWS = {
    "linear": lambda q: atoms((1, 1)),
    "relu": lambda q: atoms((0, 0.5), (1, 0.5)),
    "leaky_relu": lambda q: atoms((0.01**2, 0.5), (1, 0.5)),
    "hard_tanh": lambda q: (lambda p: atoms((0, 1 - p), (1, p)))(math.erf(1 / math.sqrt(2 * q))),
    "tanh": lambda q: sampled(np.cosh(math.sqrt(q) * X) ** -2.0),
    "erf": lambda q: sampled(2 / math.sqrt(math.pi) * np.exp(-q * X * X)),
    "sin": lambda q: sampled(np.cos(math.sqrt(q) * X)),
    "sigmoid": lambda q: sampled(np.cosh(math.sqrt(q) * X / 2) ** -2.0 / 4),
}
LENGTHS = {"sin": (1e-3, 2.0), "hard_tanh": (0.05, 1e2)}
GIVEN = {"leaky_relu": {"negative_slope": 0.01}}


class Oracle:
    """`depth` equal layers, by one rule."""

    def __init__(self, law, depth, variance, gaussian):
        self.d, self.w = law
        self.depth, self.variance = depth, variance
        self.gaussian = depth if gaussian else 0
        self.one_value = self.d.size == 1 and not gaussian

    def moment(self, z):
        """M and dM/dz."""
        below = self.d / (1 - np.multiply.outer(z, self.d))
        first = below @ self.w
        return z * first, first + z * (below**2 @ self.w)

    def log_lambda(self, z):
        """log λ and its derivative by log z; z and M are in the lower half-plane."""
        m, rate = self.moment(z)
        n, g = self.depth, self.gaussian
        value = (1 - n + g) * np.log(1 + m) + (n - 1) * np.log(m) - n * np.log(z)
        slope = z * ((1 - n + g) / (1 + m) + (n - 1) / m) * rate - n
        return value + n * math.log(self.variance), slope

    def upper(self):
        """The upper edge of log λ: its least value between z = 0 and the first pole."""
        at = lambda u: float(self.log_lambda(1 / np.max(self.d) / (1 + np.exp(-u)))[0])
        grid = np.linspace(-30, 30, 301)
        u = grid[np.argmin([at(u) for u in grid])]
        if u in grid[[0, -1]]:  # an atom is left at the edge
            return math.nan
        how = {"bounds": (u - 0.3, u + 0.3), "method": "bounded", "options": {"xatol": 1e-9}}
        return at(minimize_scalar(at, **how).x)

    def density(self, x):
        """Of log λ at each x, followed from λ < 0 around to λ > 0; NaN where that fails."""
        if self.one_value:
            return np.zeros(x.size)
        low, high = np.full(x.size, -100.0), np.full(x.size, 100.0)
        for _ in range(60):  # on the negative axis log|λ| falls with v = log|z|
            v = (low + high) / 2
            falls = self.log_lambda(np.conj(-np.exp(v) + 0j))[0].real > x
            low, high = np.where(falls, v, low), np.where(falls, high, v)
        y = v - 1j * math.pi
        path = [(math.pi, y)]
        for angle in np.append(math.pi * np.linspace(1, 0, 31)[1:-1], [1e-2, 0.0]):
            if len(path) > 1:
                (a, before), (b, _) = path[-2:]
                y = y + (y - before) * (angle - b) / (b - a)
            for _ in range(30):
                value, slope = self.log_lambda(np.exp(y))
                change = (value - x - 1j * angle) / slope
                y = y - change
                if np.max(np.abs(change)) < 1e-7:  # and its square next time
                    break
            path.append((angle, y))
        value, _ = self.log_lambda(np.exp(y))
        found = -self.moment(np.exp(y))[0].imag / math.pi
        # at a density of zero z is real, on the other side of the branch by rounding alone
        off = np.abs(value - x)
        return np.where((off < 1e-9) & (found > -1e-12), found, np.nan)

    def above(self, x, upper, nodes):
        """The share of log λ above x: a square root at the edge, or what orthogonal weights
        leave there, is not seen by the nodes."""
        t, w = np.polynomial.legendre.leggauss(nodes)
        size = math.sqrt(upper - x)
        u = size * (1 + t) / 2
        return float(np.sum(w * size * u * self.density(upper - u * u)))


def draw(rng, name):
    low, high = LENGTHS.get(name, (1e-3, 1e2))
    q = math.exp(rng.uniform(math.log(low), math.log(high)))
    variance = math.exp(rng.uniform(math.log(0.1), math.log(10)))
    depth = round(math.exp(rng.uniform(math.log(2), math.log(300))))
    return q, variance, depth


def program(name, weights):
    phi = activation(name, **GIVEN.get(name, {}))

    def numbers(q, variance, depth, x):
        one = theory.jacobian_factors(theory.layer(phi, variance, weights=weights), q)
        factors = one.repeated(depth)
        law = theory.singular_value_distribution(factors, x)
        at = theory.singular_value_quantiles(factors, jnp.asarray([0.6, 0.97]))
        edges = theory.spectrum.spectrum_edges(factors)
        return law.density, law.cumulative, at, edges.log_upper

    return numbers


def campaign(cases, names=tuple(LAWS), seed=0):
    judge, rng = Campaign("spectra of Jacobians"), np.random.default_rng(seed)
    while judge.cases < cases:
        for name in names:
            for weights in ("gaussian", "orthogonal"):
                q, variance, depth = draw(rng, name)
                law = LAWS[name](q)
                fine, coarse = (Oracle(one, depth, variance, weights == "gaussian") for one in law)
                label = f"{name} {weights} q={q!r} variance={variance!r} depth={depth}"
                with np.errstate(all="ignore"):  # on the way to a solution
                    compare(judge, label, program(name, weights), fine, coarse, q, rng)
    return judge


def compare(judge, label, run, fine, coarse, q, rng):
    ends = fine.upper(), coarse.upper()
    if math.isnan(ends[0]):
        return
    off = abs(ends[0] - ends[1]) + 1e-14 * fine.depth
    x = ends[0] - np.exp(rng.uniform(np.log(0.02), np.log(1 + math.sqrt(fine.depth)), 4))
    density, cumulative, at, upper = run(q, fine.variance, float(fine.depth), jnp.asarray(x / 2))
    judge.number(f"{label} edge", upper.value, upper.error, ends[0] / 2, truth_error=off)
    truth, other = 2 * fine.density(x), 2 * coarse.density(x)
    sure = np.abs(truth - other) < 1e-6
    # Sums of as many logarithms, and in a gap below an atom z is real up to their rounding.
    slack = np.abs(truth - other) + 1e-12 * fine.depth
    judge.number(
        f"{label} density {x.tolist()}",
        density.value[sure],
        density.error[sure],
        truth[sure],
        truth_error=slack[sure],
    )
    if fine.one_value:
        judge.number(f"{label} cumulative", cumulative.value, cumulative.error, 0.0)
        judge.number(f"{label} quantiles", at.value, at.error, ends[0] / 2, truth_error=off)
        return
    places = np.append(x[:1], 2 * np.asarray(at.value))
    claimed = np.append(cumulative.value[:1], [0.6, 0.97])
    error = np.append(cumulative.error[:1], at.error)
    for place, fraction, doubt, kind in zip(
        places, claimed, error, ("cumulative", "quantile .6", "quantile .97"), strict=True
    ):
        if not (np.isfinite(place) and np.isfinite(doubt) and place < ends[0]):
            beyond = bool(place - 2 * doubt > ends[0] + off)
            judge.claim(f"{label} {kind} beyond the edge", beyond, False, unknown=not beyond)
            continue
        # Two that agree may do so by chance.
        three = [fine.above(place, ends[0], n) for n in (16, 24, 40)]
        spread, two = np.ptp(three), three[-1]
        if not spread < 1e-5:
            continue
        if kind != "cumulative":
            doubt = doubt * 2 * float(fine.density(np.array([place]))[0])
        slack = 2 * spread + 1e-9
        judge.number(f"{label} {kind}", 1 - fraction, doubt, two, truth_error=slack)


@pytest.mark.parametrize(
    ("cases", "names"), [(10, ["relu", "tanh"]), pytest.param(10_000, LAWS, marks=pytest.mark.slow)]
)
def test_no_spectrum_lies(cases, names):
    campaign(cases, tuple(names)).check(most_unknown=0.1)
