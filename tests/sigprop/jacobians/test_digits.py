"""Digits that are lost to numbers too small for their type, and the status that says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop.comparison._cells import _inaccurate
from sigprop.networks._digits import fallen, gradient_growths, vanishes
from theory import Status

KEY = jax.random.key(5)
EPS = float(jnp.finfo(jnp.float32).eps)


@pytest.fixture(scope="module")
def ordered():
    """Lengths that halve with every layer leave float32 behind 126 of them."""
    network = theory.feedforward(theory.activation("tanh"), 0.5, 0.0, depth=140)
    x = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 32, key=KEY).astype(jnp.float32)
    how = {"width": 64, "replicas": 4, "gradients": True, "explicit_weights": False}
    return sigprop.sample_ensemble(network, x, **how).samples


def test_a_deep_ordered_network_is_right_or_says_so(ordered):
    q = np.asarray(theory.length(ordered.moments))
    c = np.asarray(theory.correlation(ordered.moments))[..., 0, 1]
    good = np.asarray(ordered.status) == Status.OK
    assert np.all(good[:, :100])
    assert not np.any(good[:, -8:])
    assert np.max(np.abs(c[good])) <= 1 + 4 * EPS
    assert np.all((q[:, 1:] < 1.2 * q[:, :-1])[good[:, 1:]])  # halves, but for fluctuations
    assert np.all(q[good] > 0)
    # Slopes are those of the origin while only lengths are too small.
    assert np.all(np.asarray(ordered.tangent_status) == Status.OK)
    assert np.all(np.asarray(ordered.gradient_status) == Status.OK)
    growth = np.asarray(jax.vmap(theory.growth)(ordered.moments))
    assert abs(growth[:, 80:].mean() - 0.5) < 0.05


def test_what_is_lost_enters_no_mean_and_no_verdict(ordered):
    bad = np.asarray(ordered.status) != Status.OK
    known = np.asarray(theory.length(ordered.known.moments))
    assert np.array_equal(np.isnan(known).all(axis=-1), bad)
    assert not np.any(np.isnan(ordered.known.gradient_growth))
    length, correlation, slope, growth = (
        theory.OBSERVABLES[name] for name in ("length", "correlation", "slope", "gradient_growth")
    )
    for observable in (length, correlation):
        lost = _inaccurate(observable, ordered).all(axis=1)
        assert np.array_equal(lost, bad.any(axis=0))
    for observable in (slope, growth):
        assert not _inaccurate(observable, ordered).any()


PLATEAUS = {
    "dead units": (theory.activation("relu"), -1e-3, True),
    "dead units near zero": (theory.activation("relu"), -1e-30, True),
    "below a threshold": (theory.radial("threshold"), 0.3, True),
    "a power": (theory.componentwise(lambda z: z**20), 1e-3, False),
    "a power with a kink": (
        theory.componentwise(lambda z: jnp.maximum(z, 0) ** 20, kinks=[0.0]),
        1e-3,
        False,
    ),
    "flat at the origin": (
        theory.componentwise(lambda z: jnp.exp(-1 / jnp.maximum(z * z, 1e-12))),
        0.05,
        False,
    ),
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_zeros_of_a_plateau_are_exact_and_others_are_not(name):
    phi, z, plateau = PLATEAUS[name]
    z = jnp.full((1, 8, 1), z, jnp.float32)
    after = phi(z)
    assert not jnp.any(after)
    exactly = vanishes(phi, z)
    assert bool(exactly[0]) == plateau
    assert bool(fallen(z, after, exactly)[0]) == (not plateau)


def test_gradients_behind_a_dead_layer_have_no_growth():
    logs = jnp.asarray([[0.3], [-jnp.inf], [0.1], [-200.0], [0.0]], jnp.float32)
    growth, status = gradient_growths(logs, jnp.zeros((), bool))
    assert np.isnan(growth[0, 0])
    assert growth[1, 0] == 0
    expected = [Status.INVALID, Status.INACCURATE, Status.OK, Status.INACCURATE]
    assert np.asarray(status).tolist() == expected
