"""All singular values of products of any kind, against arbitrary precision."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from sigprop.jacobians import product_log_singular_values
from tests.honesty.campaign import Campaign
from theory import Status

SHAPES = {3: 6, 6: 8, 12: 10}
"""Layers by size: one shape each, so that few programs are compiled."""
SHARES = [0.5, 0.35, 0.15]


def haar(rng, n):
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def weights(rng, n):
    return haar(rng, n) if rng.random() < 0.3 else rng.standard_normal((n, n)) / np.sqrt(n)


def tanh_layers(rng, n, depth, sigma):
    """D W, W D or D and W by themselves, of a tanh network along its own trajectory."""
    z, factors, how = sigma * rng.standard_normal(n), [], rng.integers(3)
    while len(factors) < depth:
        w = sigma * weights(rng, n)
        slope = 1 / np.cosh(z) ** 2
        z = w @ np.tanh(z) + 0.05 * rng.standard_normal(n)
        one = [np.diag(slope), w] if how == 0 else [w * slope]
        factors += [w * (1 / np.cosh(z) ** 2)[:, None]] if how == 2 else one
    return factors[:depth]


def triangular(rng, n, depth):
    size = 10.0 ** rng.uniform(-5, 5, (depth, n, n)) * rng.choice([-1, 1], (depth, n, n))
    if rng.random() < 0.5:
        size = 10.0 ** np.round(np.log10(np.abs(size))) * np.sign(size)
    return list(np.triu(size) if rng.random() < 0.7 else np.tril(size))


def jordan(rng, n, depth):
    step = 10.0 ** rng.uniform(-8, 8)
    return [rng.choice([0.5, 1.0, 3.0]) * np.eye(n) + step * np.eye(n, k=1)] * depth


def graded(rng, n, depth):
    """Scales of rows, columns or both, each well conditioned but for them."""
    decades, factors = 10.0 ** rng.uniform(0, 2.2), []
    for _ in range(depth):
        rows, columns = (10.0 ** rng.uniform(-decades / 2, decades / 2, (2, n))) ** rng.integers(
            0, 2, (2, 1)
        )
        factors.append(rows[:, None] * weights(rng, n) * columns)
    return factors


def inverse_pairs(rng, n, depth):
    """Scales and their inverses: identities, as products of very uneven factors."""
    scale = 2.0 ** rng.integers(-300, 300, n)
    pair = [np.diag(scale), np.diag(1 / scale)]
    w = haar(rng, n)
    return (pair * depth)[: depth - 1] + [w] if depth % 2 else [w, *(pair * depth)[: depth - 1]]


def rank_deficient(rng, n, depth):
    """Rows, columns that are zero, or integers of low rank."""
    factors = [weights(rng, n) for _ in range(depth)]
    for i in rng.choice(depth, 2, replace=False):
        kind = rng.integers(4)
        if kind == 0:
            factors[i][rng.integers(n)] = 0
        elif kind == 1:
            factors[i][:, rng.integers(n)] = 0
        elif kind == 2:
            k = int(rng.integers(1, n))
            left, right = rng.integers(-9, 9, (n, k)), rng.integers(-9, 9, (k, n))
            factors[i] = (left @ right).astype(float)
        else:
            factors[i][1] = 2 * factors[i][0]
    return factors


def repeated(rng, n, depth):
    """Reflections, permutations, blocks that repeat: values that are equal."""
    out = []
    for _ in range(depth):
        v = rng.standard_normal(n) * rng.integers(0, 2, n) + np.eye(n)[0]
        reflection = np.eye(n) - 2 * np.outer(v, v) / (v @ v)
        block = np.kron(np.eye(n // 2), rng.standard_normal((2, 2))) if n % 2 == 0 else np.eye(n)
        permuted = np.eye(n)[rng.permutation(n)]
        out.append([reflection, block, permuted, np.eye(n), 3.0 * reflection][rng.integers(5)])
    return out


def scaled(rng, n, depth):
    """Sizes out of range, also of single rows."""
    factors = [10.0 ** rng.uniform(-200, 200) * weights(rng, n) for _ in range(depth)]
    where = rng.integers(depth)
    factors[where] = 10.0 ** rng.uniform(-300, 0, (n, 1)) * weights(rng, n)
    return factors


def subnormal(rng, n, depth):
    factors = [weights(rng, n) for _ in range(depth)]
    factors[rng.integers(depth)] *= 2.0 ** rng.integers(-1060, -1000)
    factors[rng.integers(depth)] = np.diag(10.0 ** -np.linspace(0, rng.uniform(300, 315), n))
    return factors


def mixed(rng, n, depth):
    kinds = [triangular, graded, repeated, jordan]
    out = [kinds[rng.integers(4)](rng, n, depth)[0] for _ in range(depth - 2)]
    return [*out, *tanh_layers(rng, n, 2, 4.0)]


FAMILIES = {
    "ordered": partial(tanh_layers, sigma=0.8),
    "critical": partial(tanh_layers, sigma=1.0),
    "chaotic": partial(tanh_layers, sigma=1.5),
    "saturated": partial(tanh_layers, sigma=5.0),
    "linear": lambda rng, n, depth: [weights(rng, n) for _ in range(depth)],
    "triangular": triangular,
    "jordan": jordan,
    "graded": graded,
    "inverse pairs": inverse_pairs,
    "rank": rank_deficient,
    "repeated": repeated,
    "scaled": scaled,
    "subnormal": subnormal,
    "mixed": mixed,
}
HARD = {"triangular", "jordan", "inverse pairs", "subnormal", "mixed"}


def decades(a):
    """A bound on the decades that a factor can spread; of singular ones a guess."""
    n = len(a)
    mpmath.mp.dps = 60
    m = mpmath.matrix(a.tolist())
    for side in (0, 1):  # scales of rows and columns apart
        for i in range(n):
            line = [abs(m[i, j] if side == 0 else m[j, i]) for j in range(n)]
            most = max(line)
            for j in range(n):
                if most and side == 0:
                    m[i, j] /= most
                elif most:
                    m[j, i] /= most
    lengths = np.abs(a[a != 0])
    spread = 2 * (math.log10(lengths.max()) - math.log10(lengths.min())) if lengths.size else 0
    det = abs(mpmath.det(m))
    inner = -float(mpmath.log10(det)) if det > mpmath.mpf(10) ** -50 else 20
    return spread / (1 if spread > 30 else 2) + inner + 0.5 * n


def exact_logs(factors):
    """Logs of the singular values, −inf for zeros; checked against the determinants."""
    digits = 60 + int(sum(decades(a) for a in factors))
    mpmath.mp.dps = digits
    exact = [mpmath.matrix(a.tolist()) for a in factors]
    product = exact[0]
    for a in exact[1:]:
        product = a * product
    values = mpmath.svd_r(product, compute_uv=False)
    floor = mpmath.mpf(10) ** (25 - digits) * max(values)
    logs = sorted((mpmath.log(s) if s > floor else -mpmath.inf for s in values), reverse=True)
    volume = sum(mpmath.log(d) if d else -mpmath.inf for d in (abs(mpmath.det(a)) for a in exact))
    total = mpmath.fsum(logs)
    close = volume == total or abs(volume - total) < 1e-17 * max(abs(volume), 1)
    assert close, (volume, total)
    return np.array([float(x) for x in logs])


def draw(rng, family, sizes=None):
    """Factors of a family; some in single precision, where no size is asked for."""
    n = int(rng.choice(list(SHAPES), p=SHARES)) if sizes is None else int(rng.choice(sizes))
    factors = FAMILIES[family](rng, n, SHAPES[n])
    if sizes is None and rng.random() < 0.15:
        with np.errstate(all="ignore"):
            narrow = np.array(factors).astype(np.float32)
        if np.all(np.isfinite(narrow)):
            return narrow
    return np.array(factors)


def campaign(cases, seed=0, sizes=None):
    judge = Campaign("products")
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        family = list(FAMILIES)[case % len(FAMILIES)]
        factors = draw(rng, family, sizes)
        label = f"{family} {case} {factors.shape[1]} {factors.dtype}"
        found = product_log_singular_values(jnp.asarray(factors))
        compare(judge, label, found, factors, exact_logs(factors.astype(float)))
    return judge


def compare(judge, label, found, factors, truth):
    """One product is one case: its worst value counts, and the number of its zeros."""
    values, error = np.asarray(found.log_singular_values, float), float(found.error)
    finite = truth[np.isfinite(truth)]
    rounding = float(jnp.finfo(factors.dtype).eps) / 2 * np.max(np.abs(finite), initial=0)
    same = np.isneginf(values) & np.isneginf(truth)
    off = np.abs(np.where(same, 0, values) - np.where(same, 0, truth))
    worst = int(np.argmax(off))
    judge.number(label, values[worst], error, truth[worst], truth_error=rounding)
    if found.status == Status.OK:
        judge.claim(f"{label} zeros", int(found.zeros), int(np.sum(np.isneginf(truth))))
        judge.cases -= 1


@pytest.mark.parametrize(
    ("cases", "sizes"),
    [(len(FAMILIES), [3]), pytest.param(1000, None, marks=pytest.mark.slow)],
)
def test_products_of_any_kind_do_not_lie(cases, sizes):
    campaign(cases, sizes=sizes).check(most_unknown=0.05)


def test_a_factor_within_rounding_of_a_singular_one_has_no_zero():
    rng = np.random.default_rng([0, 13])
    factors = draw(rng, "mixed")
    found, judge = product_log_singular_values(jnp.asarray(factors)), Campaign("nearly singular")
    compare(judge, "mixed 13", found, factors, exact_logs(factors))
    judge.check(most_unknown=0)
    assert found.zeros == 0
    assert found.error < 1e-9


def product(*factors):
    """Of 3×3 factors, padded to the shape of the campaign."""
    eye = np.eye(3)
    padded = [np.asarray(a, float) for a in factors] + [eye] * (SHAPES[3] - len(factors))
    return np.array(padded)


GRADED = [-0.001, 0.001, 1e5], [0, -0.01, 0.01], [0, 0, -100]
STEEP = [-0.01, -1000, -10], [0, 1e-5, -1e4], [0, 0, 0.01]
CASES = {
    "triangular": product(*[np.eye(3)] * 3, GRADED, STEEP),
    "Jordan": product(*[0.5 * np.eye(3) + 1e8 * np.eye(3, k=1)] * 5),
    "inverse to one another": product(np.diag([1e30, 1, 1e-30]), np.diag([1e-30, 1, 1e30])),
    "out of range": product(np.diag([1e200, 1, 1e-200]), np.diag([1e-200, 1, 1e200])),
    "tiny entry": product(np.diag([1, 0.02, 1e-60])),
    "subnormal": product(np.diag([1, 0.02, 3e-310])),
    "rows": product(np.array([[1], [1e-40], [1e-300]]) * haar(np.random.default_rng(0), 3)),
    "slopes": np.array([np.diag([1, 1e-50, 1e-20]) @ STEEP] * 6),
}


@pytest.mark.parametrize("name", CASES)
def test_every_value_of_an_awkward_product(name):
    factors = CASES[name]
    found, truth = product_log_singular_values(jnp.asarray(factors)), exact_logs(factors)
    judge = Campaign("awkward")
    compare(judge, name, found, factors, truth)
    judge.check(most_unknown=0)
    assert found.error < (1e-5 if name == "Jordan" else 1e-11)
    assert found.zeros == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_behind_a_zero_factor_is_a_status(bad):
    found = product_log_singular_values(
        jnp.asarray(product(np.zeros((3, 3)), np.full((3, 3), bad)))
    )
    assert found.status == Status.INVALID
    assert np.all(np.isnan(found.log_singular_values))


@pytest.mark.slow
def test_what_a_compiled_product_cannot_know_has_an_infinite_error():
    """Nothing is done again under `jax.jit`."""
    compiled = jax.jit(product_log_singular_values)
    judge = Campaign("compiled")
    for name, factors in CASES.items():
        found = compiled(jnp.asarray(factors))
        compare(judge, name, found, factors, exact_logs(factors))
        assert (found.status == Status.OK) == bool(found.error <= 1e-9)
    judge.check(most_unknown=0.7)
