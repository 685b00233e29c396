"""Random numbers, triangular factors, and the choice between weights and products alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import theory
from sigprop.networks._random import normal
from sigprop.networks._weights import draws_matrices, factored, images, product
from tests.tolerances import FOLD

KEY = jax.random.key(3)


def test_fast_gaussian_numbers_are_gaussian_and_reproducible():
    z = np.asarray(normal(KEY, (1000, 1000), jnp.float32))
    np.testing.assert_array_equal(z[:3], normal(KEY, (1000, 1000), jnp.float32)[:3])
    flat = z.ravel().astype(float)
    size = flat.size
    moments = [flat.mean(), (flat**2).mean(), (flat**3).mean(), (flat**4).mean()]
    errors = np.sqrt(np.array([1, 2, 15, 96]) / size)
    assert np.max(np.abs(np.array(moments) - [0, 1, 0, 3]) / errors) < 5
    # The two words of a block go to the two halves.
    for shift in (1, 2, 1000, size // 2):
        assert abs(np.mean(flat[shift:] * flat[:-shift])) * np.sqrt(size - shift) < 5
    assert stats.kstest(flat, "norm").pvalue > 1e-6
    assert stats.kstest(1.03 * flat, "norm").pvalue < 1e-6
    assert np.max(np.abs(flat)) < 5.4
    other = normal(jax.random.fold_in(KEY, 1), (1000, 1000), jnp.float32).ravel()
    assert abs(np.mean(flat * np.asarray(other, float))) * np.sqrt(size) < 5


CASES = {
    "independent": lambda v: v,
    "nearly parallel": lambda v: v @ np.array([[1, 1, 0], [0, 1e-5, 0], [0, 0, 1]]),
    "equal": lambda v: v[:, [0, 0, 1]],
    "zero": lambda v: v * np.array([0, 1, 1]),
    "tiny": lambda v: v * np.array([1e-25, 1, 1e25]),
    "products of entries underflow": lambda v: v * np.array([5e-20, 1e-19, 1e-18]),
    "squares overflow": lambda v: v * np.array([1e19, 1e30, 1e37]),
    "square": lambda v: v[:3],
    "wide": lambda v: v[:2],
    "few live units": lambda v: v * (np.arange(500) < 2)[:, None],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_triangular_factors_are_exact_to_rounding(name, dtype):
    x = CASES[name](np.random.default_rng(0).normal(size=(500, 3))).astype(dtype)
    q, r = factored(jnp.asarray(x))
    q, r, x = (np.asarray(part, np.longdouble) for part in (q, r, x))
    eps = np.finfo(dtype).eps
    norm = lambda a: np.sqrt(np.sum(a * a, axis=0))
    size = norm(x)
    scale = np.where(size > 0, size, 1)
    assert np.max(norm(q @ r - x) / scale) < 20 * eps
    assert np.max(np.abs(r.T @ r - x.T @ x) / np.outer(scale, scale)) < 20 * eps
    kept = norm(q) > 0
    assert np.max(np.abs(q.T @ q - np.diag(kept))) < 300 * eps
    assert np.all(np.diag(r) >= 0)
    # The distance of two columns, to relative accuracy.
    apart = np.linalg.norm(x[:, 0] - x[:, 1])
    if name == "nearly parallel":
        assert abs(np.linalg.norm(r[:, 0] - r[:, 1]) / apart - 1) < 1e-2


def test_width_decides_whether_weights_are_drawn():
    assert draws_matrices(None, 1024, 4)
    assert not draws_matrices(None, 1025, 4)
    assert draws_matrices(None, 2000, 1000)
    assert not draws_matrices(None, 10**6, 10**6)
    assert draws_matrices(True, 10**6, 4)
    assert not draws_matrices(False, 8, 4)


@pytest.mark.parametrize(
    ("fan_in", "fan_out", "k", "algebra"),
    [
        pytest.param(20, 20, 4, "complex", marks=pytest.mark.slow),
        (20, 20, 4, "quaternion"),
        (2, 20, 2, "complex"),  # more images than dimensions of the input
        pytest.param(28, 20, 4, "quaternion", marks=pytest.mark.slow),
        pytest.param(20, 28, 4, "complex", marks=pytest.mark.slow),
        pytest.param(20, 28, 4, "quaternion", marks=pytest.mark.slow),
    ],
)
def test_products_of_haar_weights_are_linear_over_the_algebra(fan_in, fan_out, k, algebra):
    """W (v u) = (W v) u, and the transposed map likewise; square ones keep scalar products."""
    law = theory.WeightLaw(1.0, "orthogonal", k, algebra)
    size = len(law.table)
    right = np.array(images(jnp.eye(size), size)).reshape(size, size, size)[:, :, 1]
    rotation = np.kron(np.eye(k // size), right)
    v = jax.random.normal(KEY, (fan_in, k, 2))
    both = jnp.concatenate([v, jnp.einsum("ij,ujc->uic", rotation, v)], axis=2)
    g = jax.random.normal(jax.random.key(5), (fan_out, k, 2))
    g = jnp.concatenate([g, jnp.einsum("ij,ujc->uic", rotation, g)], axis=2)

    @jax.jit
    def there_and_back(v, g):
        y, pull = jax.vjp(lambda v: product(law, KEY, v, fan_out, explicit=False), v)
        return y, pull(g)[0]

    y, back = (np.asarray(part) for part in there_and_back(both, g))
    both, g = np.asarray(both), np.asarray(g)[..., :2]
    np.testing.assert_allclose(
        y[..., 2:], np.einsum("ij,ujc->uic", rotation, y[..., :2]), rtol=0, atol=FOLD
    )
    if fan_in == fan_out:
        dot = lambda x: np.einsum("uic,uid->cd", x, x)
        np.testing.assert_allclose(dot(y), dot(both), rtol=0, atol=FOLD)
    rotated = np.einsum("ij,ujc->uic", rotation, back[..., :2])
    np.testing.assert_allclose(back[..., 2:], rotated, rtol=0, atol=FOLD)
    # Wᵀ is the adjoint of W on what has met it
    np.testing.assert_allclose(
        np.einsum("uic,uid->cd", back[..., :2], both),
        np.einsum("uic,uid->cd", g, y),
        rtol=0,
        atol=FOLD,
    )


@pytest.mark.parametrize(
    ("distribution", "k", "algebra"),
    [
        ("gaussian", 1, "real"),
        pytest.param("orthogonal", 1, "real", marks=pytest.mark.slow),
        pytest.param("orthogonal", 2, "complex", marks=pytest.mark.slow),
        pytest.param("orthogonal", 4, "quaternion", marks=pytest.mark.slow),
    ],
)
def test_joint_moments_up_to_fourth_order_at_width_64(distribution, k, algebra):
    """Of entries of W V and of Wᵀ G, where G depends on W V; and 3 % more variance is seen."""
    width, draws = 64, 2500
    v = jax.random.normal(KEY, (width, k, 2)) @ jnp.array([[1.0, 0.6], [0.0, 0.8]])
    # The seventh number is 1: it fills up what has fewer than four factors.
    orders = np.array([(*i, *[6] * (4 - n)) for n in (1, 2, 3, 4) for i in _multisets(6, n)])

    def one(key, explicit, variance):
        law = theory.WeightLaw(variance, distribution, k, algebra)
        y, pull = jax.vjp(lambda v: product(law, key, v, width, explicit=explicit), v)
        (back,) = pull(jnp.tanh(y) + y**2)
        # Two rows of W V and one of Wᵀ G, for every such group.
        # of different components, where there are several
        numbers = jnp.concatenate([y[::2, 0], y[1::2, k - 1], back[::2, k // 2]], axis=1)
        numbers = jnp.concatenate([numbers, jnp.ones((len(numbers), 1))], axis=1)
        return jnp.mean(jnp.prod(numbers[:, orders], axis=2), axis=0)

    @functools.partial(jax.jit, static_argnums=1)
    def every(keys, explicit, variance):
        return jax.lax.map(lambda key: one(key, explicit, variance), keys)

    def sample(explicit, variance=1.5, offset=0):
        keys = jax.random.split(jax.random.fold_in(KEY, offset), draws)
        return np.asarray(every(keys, explicit, variance))

    drawn, free = sample(True), sample(False, offset=1)
    error = np.sqrt((drawn.var(axis=0) + free.var(axis=0)) / draws)
    assert np.max(np.abs(drawn.mean(axis=0) - free.mean(axis=0)) / (error + 1e-12)) < 5.5
    wrong = sample(False, 1.5 * 1.03, 2)
    assert np.max(np.abs(drawn.mean(axis=0) - wrong.mean(axis=0)) / error) > 5.5


def _multisets(kinds, size, start=0):
    if size == 0:
        return [()]
    return [(i, *rest) for i in range(start, kinds) for rest in _multisets(kinds, size - 1, i)]
