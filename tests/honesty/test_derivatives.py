"""Derivatives of predictions against differences that know their own error."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign
from theory import Estimate

ERF = theory.activation("erf")
RADIAL = theory.radial("tanh")
_POINTS = np.array([-4, -2, -1, 1, 2, 4])
_STEP = 2e-3


def values(tree: Any) -> tuple[Any, Any]:
    """The values of all estimates, and their errors."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda e: isinstance(e, Estimate))
    leaves = [e for e in leaves if isinstance(e, Estimate)]
    flat = lambda name: jnp.concatenate([jnp.ravel(getattr(e, name)) for e in leaves])
    return flat("value"), flat("error")


def _stationary(p):
    return theory.phases.stationary_state(theory.layer(ERF, p[0], p[1]), p[2])


def _moments(p):
    """Two inputs after five layers."""
    gram = jnp.array([[1.0, 0.3], [0.3, 0.8]])[..., None, None]
    found = theory.propagate(
        theory.feedforward(ERF, p[0], p[1], depth=5), theory.given_moments(gram)
    )
    wanted = lambda m: jnp.ravel(m.covariance[-1]) + 0 * jnp.ravel(m.separation[-1])
    return Estimate(wanted(found.value), wanted(found.error), jnp.zeros(4, jnp.int8))


def _sectors(p):
    body = theory.layer(RADIAL, p[0], p[1], components=3)
    return theory.sectors(body, theory.predict(body).length)


class Case(NamedTuple):
    """A function of a few parameters, and the ranges they are drawn from."""

    fn: Any
    low: tuple[float, ...]
    high: tuple[float, ...]


CASES = {
    "critical_line": Case(lambda p: theory.critical_line(ERF, p[:1]), (1e-4,), (1e4,)),
    "fixed_points": Case(
        lambda p: theory.fixed_points(theory.layer(ERF, p[0], p[1])), (0.3, 1e-3), (30.0, 3.0)
    ),
    "critical_points": Case(lambda p: theory.critical_points(ERF, p[0]), (1e-5,), (1e4,)),
    "ordered": Case(
        lambda p: theory.predict(theory.layer(ERF, p[0], p[1])), (0.1, 0.05), (1.2, 10.0)
    ),
    "chaotic": Case(
        lambda p: theory.predict(theory.layer(ERF, p[0], p[1])), (3.0, 1e-3), (30.0, 0.1)
    ),
    "stationary_state": Case(_stationary, (0.5, 0.01, 0.05), (6.0, 0.5, 0.5)),
    "propagate": Case(_moments, (0.3, 1e-3), (10.0, 1.0)),
    "sectors": Case(_sectors, (0.5, 0.01), (6.0, 1.0)),
}


def differences(fn, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives by each parameter at points p [n, m], and their errors, both [n, fields, m].

    Three central differences of steps h, 2h and 4h, extrapolated twice; the error is the change
    by the last extrapolation and what the errors of the values can make of it.
    """
    n, m = p.shape
    at = p[:, None, None] * (1 + _STEP * _POINTS[:, None, None] * np.eye(m))
    found, error = map(np.asarray, fn(jnp.asarray(at.reshape(-1, m))))
    found, error = (a.reshape(n, 6, m, -1) for a in (found, error))
    h = (_STEP * p)[:, :, None]
    four, two, one = ((found[:, 5 - i] - found[:, i]) / (2 * h * 2 ** (2 - i)) for i in range(3))
    first, second = one + (one - two) / 3, two + (two - four) / 3
    best = first + (first - second) / 15
    # Values are far closer to each other than their errors, which are bounds of all there is.
    noise = np.max(np.minimum(error, 1e-12 * (1 + np.abs(found))), axis=1) / h
    off = np.abs(first - second) + 3 * noise
    return np.swapaxes(best, 1, 2), np.swapaxes(off, 1, 2)


def campaign(cases, names, seed=0) -> Campaign:
    """`jacfwd` against differences."""
    judge, random = Campaign("derivatives"), np.random.default_rng(seed)
    for name in names:
        case = CASES[name]
        low, high = np.log(case.low), np.log(case.high)
        shown = lambda p, case=case: values(case.fn(p))
        fn = jax.jit(jax.vmap(shown))
        rates = jax.jit(jax.vmap(jax.jacfwd(lambda p, shown=shown: shown(p)[0])))
        p = np.exp(random.uniform(low, high, (cases // len(names), len(low))))
        found = np.asarray(rates(jnp.asarray(p)))
        with np.errstate(invalid="ignore"):  # of values that are infinite
            best, off = differences(fn, p)
        value = np.asarray(fn(jnp.asarray(p))[0])
        wanted = np.isfinite(value) & np.all(np.isfinite(best), axis=2)
        for i in range(len(p)):
            for j in np.flatnonzero(wanted[i]):
                scale = np.abs(value[i, j]) / p[i] + np.abs(best[i, j])
                label = f"{name} at {p[i].tolist()}, field {j}"
                judge.number(label, found[i, j], 1e-9 * scale, best[i, j], truth_error=off[i, j])
    return judge


@pytest.mark.parametrize(
    ("cases", "names"),
    [
        (40, ["critical_line"]),
        pytest.param(1_600, list(CASES), marks=pytest.mark.slow),
    ],
)
def test_derivatives_are_those_of_the_values(cases, names):
    judge = campaign(cases, names)
    judge.check(most_unknown=0.001)
    assert judge.cases >= 2 * cases
