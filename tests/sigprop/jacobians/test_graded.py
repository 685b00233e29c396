"""All singular values of a product, against arbitrary precision and exact laws."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import binom

import sigprop
import theory
from sigprop.jacobians import product_log_singular_values
from tests.tolerances import FOLD, LAYER, LAYERS, SINGLE_LAYERS, SOLUTION
from theory import Chain, Pointwise, Status, affine

# One shape, so that one compilation serves most tests.
N, L = 16, 64
KEY = jax.random.key(11)


def haar(rng, n):
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def tanh_layers(n, depth, sigma, bias=0.0, *, orthogonal=False, seed=0):
    """D W of a tanh network along its own trajectory: rows of very different size in chaos."""
    rng = np.random.default_rng(seed)
    z, layers = sigma * rng.standard_normal(n), []
    for _ in range(depth):
        w = haar(rng, n) if orthogonal else rng.standard_normal((n, n)) / np.sqrt(n)
        z = sigma * w @ np.tanh(z) + bias * rng.standard_normal(n)
        layers.append(sigma * w / np.cosh(z)[:, None] ** 2)
    return np.array(layers)


def radial_layers(units, k, depth, sigma, seed=0):
    """The Jacobians of z ↦ W φ(z), φ(z) = tanh(|z|) z/|z|, for units of k real components."""
    rng = np.random.default_rng(seed)
    z, layers = sigma * rng.standard_normal((units, k)), []
    for _ in range(depth):
        w = sigma * rng.standard_normal((units, units)) / np.sqrt(units)
        r = np.linalg.norm(z, axis=1)
        outward = np.einsum("ua,ub->uab", z, z) / r[:, None, None] ** 2
        along, across = 1 / np.cosh(r) ** 2, np.tanh(r) / r
        d = along[:, None, None] * outward + across[:, None, None] * (np.eye(k) - outward)
        layers.append(np.einsum("uv,vab->uavb", w, d).reshape(units * k, units * k))
        z = w @ (across[:, None] * z)
    return np.array(layers)


def exact_logs(factors):
    """Logs of the singular values with 60 digits more than the factors can spread."""
    mpmath.mp.dps = 60 + int(sum(np.log10(np.linalg.cond(a)) for a in factors))
    product = mpmath.matrix(factors[0].tolist())
    for a in factors[1:]:
        product = mpmath.matrix(a.tolist()) * product
    values = mpmath.svd_r(product, compute_uv=False)
    return np.array(sorted((float(mpmath.log(s)) for s in values), reverse=True))


def measured(factors):
    """Padded by identities to the shape that is compiled already."""
    n = factors.shape[1]
    padding = np.broadcast_to(np.eye(n), (max(L - len(factors), 0), n, n))
    return product_log_singular_values(jnp.asarray(np.concatenate([factors, padding])))


def check_against(exact, found):
    off = np.max(np.abs(found.log_singular_values - exact))
    # Logs of the truth are themselves rounded to double.
    rounding = np.spacing(np.max(np.abs(exact)))
    assert off <= found.error + rounding, "the reported error is too small"
    # Typically 60 times the true one, for saturated layers 500.
    assert found.error <= 1e4 * max(off, 1e-15), "the reported error says nothing"
    assert off <= 1e-9
    assert found.zeros == 0


CASES = {
    "chaotic": {"sigma": 1.5},
    "saturated": {"sigma": 4.0},
    "ordered": {"sigma": 0.9},
    "near critical": {"sigma": 1.0, "bias": 0.05},
    "orthogonal": {"sigma": 1.5, "orthogonal": True},
    "orthogonal saturated": {"sigma": 4.0, "orthogonal": True},
    "near isometry": {"sigma": 1.0, "bias": 0.05, "orthogonal": True},
}


@pytest.mark.parametrize("name", CASES)
def test_every_singular_value_against_arbitrary_precision(name):
    factors = tanh_layers(N, L, **CASES[name])
    found = measured(factors)
    check_against(exact_logs(factors), found)
    # The same check refuses values that are off by 1e-8 of a nat.
    assert found.error < 1e-8
    assert found.status == (Status.OK if found.error <= 1e-9 else Status.INACCURATE)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_layers_in_two_factors_of_very_different_spread(compiled):
    """W and D one after the other, as `probe` gives them; compiled, nothing is done twice."""
    rng = np.random.default_rng(8)
    factors = []
    for _ in range(L // 2):
        factors += [np.diag(rng.uniform(0.9, 1, N)), rng.standard_normal((N, N)) / np.sqrt(N)]
    function = jax.jit(product_log_singular_values) if compiled else product_log_singular_values
    found = function(jnp.asarray(factors))
    check_against(exact_logs(np.array(factors)), found)
    # 6e-8 where a factor that spreads nothing makes the next sixteen one.
    assert found.error < 1e-9


@pytest.mark.parametrize("components", [1, 2, 4])
def test_equivariant_layers_with_columns_of_very_different_size(components):
    """W D instead of D W: the grading stands in the columns, or in no axis at all."""
    factors = radial_layers(N // components, components, 24, 2.0)
    check_against(exact_logs(factors), measured(factors))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "depth", "how"),
    [
        (32, 256, {"sigma": 1.5}),
        (32, 512, {"sigma": 1.5, "orthogonal": True}),
        (48, 64, {"sigma": 1.5}),
        (48, 64, {"sigma": 4.0}),
        (48, 64, {"sigma": 4.0, "orthogonal": True}),
        (64, 64, {"sigma": 1.0, "bias": 0.05}),
    ],
)
def test_larger_products_against_arbitrary_precision(n, depth, how):
    factors = tanh_layers(n, depth, **how)
    check_against(exact_logs(factors), measured(factors))


@pytest.mark.slow
def test_o3_layers_against_arbitrary_precision():
    factors = radial_layers(12, 3, 128, 1.5)
    check_against(exact_logs(factors), measured(factors))


def test_a_product_of_orthogonal_matrices_has_equal_singular_values():
    rng = np.random.default_rng(1)
    found = measured(np.array([0.3 * haar(rng, N) for _ in range(L)]))
    np.testing.assert_allclose(found.log_singular_values, L * np.log(0.3), rtol=LAYER)
    np.testing.assert_allclose(found.lyapunov, np.log(0.3), rtol=LAYERS)
    assert found.status == Status.OK


@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
def test_volume_order_and_scale(scale):
    """Σ log s = Σ log|det A_l|; permutations change nothing; scales add, far out of range."""
    factors = tanh_layers(N, L, 2.0)
    found = measured(scale * factors)
    logs = found.log_singular_values
    volume = sum(np.linalg.slogdet(a)[1] for a in factors) + L * N * np.log(scale)
    np.testing.assert_allclose(np.sum(logs), volume, rtol=LAYERS)
    assert np.all(np.diff(logs) <= 0)
    rng = np.random.default_rng(2)
    left, right = np.eye(N)[rng.permutation(N)], np.eye(N)[rng.permutation(N)]
    rotated = factors.copy()
    rotated[0], rotated[-1] = factors[0] @ right, left @ factors[-1]
    other = measured(rotated).log_singular_values + L * np.log(scale)
    np.testing.assert_allclose(logs, other, rtol=0, atol=2 * found.error + 1e-16 * abs(volume))


def test_a_short_product_agrees_with_a_plain_decomposition():
    factors = tanh_layers(N, 4, 1.2)
    plain = np.linalg.svd(np.linalg.multi_dot(factors[::-1]), compute_uv=False)
    kept = plain > 1e-6 * plain[0]
    assert np.sum(kept) > N / 2
    np.testing.assert_allclose(
        measured(factors).log_singular_values[kept], np.log(plain[kept]), rtol=0, atol=SOLUTION
    )


def test_ginibre_lyapunov_estimates_have_the_exact_mean_at_every_index():
    """E log R_ii = ½[ψ((N − i + 1)/2) + log(2σ²/N)] (Newman 1986, equation 4)."""
    rng, variance, replicas = np.random.default_rng(3), 1.7, 250
    draws = np.array(
        [
            measured(np.sqrt(variance / N) * rng.standard_normal((L, N, N))).lyapunov
            for _ in range(replicas)
        ]
    )
    i = np.arange(1, N + 1)
    exact = (digamma((N - i + 1) / 2) + np.log(2 * variance / N)) / 2
    standard_error = draws.std(axis=0, ddof=1) / np.sqrt(replicas)
    assert np.max(np.abs(draws.mean(axis=0) - exact) / standard_error) < 6.5
    # A variance that is 3 % off would be seen.
    assert np.log(1.03) / 2 / standard_error[0] > 6.5


def test_zeros_are_counted():
    factors = tanh_layers(N, L, 1.5)
    dead = factors.copy()
    dead[10, 3] = 0  # a row: a unit whose output no longer moves
    dead[30, :, [1, 2]] = 0  # columns: units that nothing listens to
    found = measured(dead)
    assert found.zeros == 2
    assert np.all(np.isneginf(found.log_singular_values[-2:]))
    assert found.status == Status.OK
    # The rest against a product that never had those directions.
    exact = exact_logs_of_singular(dead)[: N - 2]
    assert np.max(np.abs(found.log_singular_values[: N - 2] - exact)) <= found.error


def exact_logs_of_singular(factors):
    mpmath.mp.dps = 400
    product = mpmath.matrix(factors[0].tolist())
    for a in factors[1:]:
        product = mpmath.matrix(a.tolist()) * product
    values = mpmath.svd_r(product, compute_uv=False)
    return np.array(sorted(float(mpmath.log(s + mpmath.mpf(10) ** -350)) for s in values)[::-1])


def test_a_factor_of_low_rank_without_zero_entries():
    rng = np.random.default_rng(4)
    factors = tanh_layers(N, L, 1.5)
    factors[20] = rng.integers(-9, 9, (N, 5)) @ rng.integers(-9, 9, (5, N))
    found = measured(factors)
    assert found.zeros == N - 5
    exact = exact_logs_of_singular(factors)[:5]
    assert np.max(np.abs(found.log_singular_values[:5] - exact)) <= found.error < 1e-8
    # Factors count as exact: what rounding leaves of a rank of 5 has a rank of 16.
    factors[20] = rng.standard_normal((N, 5)) @ rng.standard_normal((5, N))
    found = measured(factors)
    assert found.zeros == 0
    off = found.log_singular_values - exact_logs_of_singular(factors)
    assert np.max(np.abs(off)) <= found.error < 1e-6
    nothing = measured(0 * factors)
    assert nothing.zeros == N
    assert np.all(np.isneginf(nothing.log_singular_values))
    assert nothing.status == Status.OK


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_a_status(bad):
    factors = tanh_layers(N, L, 1.5)
    factors[7, 2, 3] = bad
    found = measured(factors)
    assert found.status == Status.INVALID
    assert np.all(np.isnan(found.log_singular_values))
    assert np.isnan(found.error)


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 0)])
def test_a_product_of_nothing_is_refused(shape):
    with pytest.raises(ValueError, match="`factors`: must be at least one square matrix"):
        product_log_singular_values(jnp.zeros(shape))


def test_a_tolerance_that_is_missed_is_a_status():
    factors = jnp.asarray(tanh_layers(N, L, 1.5))
    found = product_log_singular_values(factors, tolerance=1e-20)
    assert found.status == Status.INACCURATE


def layer_jacobians(network, x, key, width):
    """The Jacobian of every layer of the drawn network, from its own tangents."""
    first, (repeated, *rest) = network.parts[0], network.parts[1:]
    reading = sigprop.networks.DrawnNetwork(network, key, width).reading
    factors = []

    def push(part, reading, values):
        units, k = values.shape[1:]
        basis = jnp.eye(units * k).reshape(1, units, k, units * k)
        start = sigprop.networks.Signals(values, basis, jnp.zeros(1))
        after, _ = theory.description.interpret(part, reading, start)
        factors.append(np.asarray(after.tangents.reshape(-1, units * k)))
        return after.values

    values = push(first, reading.child(0), x)
    layers = reading.child(1).layers(repeated.depth)
    for i in range(repeated.depth):
        pick = lambda leaf, i=i: leaf[i]
        values = push(jax.tree.map(pick, repeated.body), jax.tree.map(pick, layers), values)
    assert not rest
    return np.array(factors)


@pytest.mark.slow
def test_streamed_layers_of_a_chaotic_quaternionic_network():
    network = theory.feedforward(
        theory.radial("tanh"), 6.0, 0.1, depth=24, components=4, algebra="quaternion"
    )
    x = jax.random.normal(KEY, (1, N // 4, 4))
    found = sigprop.sample_jacobian(network, x, key=KEY, width=N // 4)
    exact = exact_logs(layer_jacobians(network, x, KEY, N // 4))
    assert exact[0] - exact[-1] > 45  # beyond what one decomposition in double could tell
    assert np.max(np.abs(found.log_singular_values - exact)) <= found.error
    assert found.status == Status.OK


@pytest.mark.slow
def test_streamed_layers_of_a_residual_network():
    network = theory.feedforward(
        theory.activation("tanh"), 9.0, depth=24, residual=True, weights="orthogonal"
    )
    x = jax.random.normal(KEY, (1, N, 1))
    found = sigprop.sample_jacobian(network, x, key=KEY, width=N)
    exact = exact_logs(layer_jacobians(network, x, KEY, N))
    assert np.max(np.abs(found.log_singular_values - exact)) <= found.error
    assert found.status == Status.OK


SATURATED = np.array([[20.0, -10.0, 30.0], [0.0, 45.0, -8.0], [-70.0, 10.0, 5.0], [0.0, 0.0, 2.0]])
"""Lengths up to 71, where 1/cosh² is 8e-62."""


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_slopes_of_saturated_radial_units_are_seen_or_said_to_be_lost(dtype):
    """The singular values of φ'(z) are g'(|z|) and, twice, g(|z|)/|z|."""
    r = np.linalg.norm(SATURATED.astype(dtype).astype(float), axis=1)
    along = np.log(4) - 2 * r - 2 * np.log1p(np.exp(-2 * r))
    exact = np.sort(np.concatenate([along, *2 * [np.log(np.tanh(r) / r)]]))[::-1]
    network = Chain((Pointwise(theory.radial("tanh")),))
    found = sigprop.sample_jacobian(network, jnp.asarray(SATURATED[None], dtype), key=KEY, width=4)
    if dtype == jnp.float64:
        assert found.status == Status.OK
        np.testing.assert_allclose(
            found.log_singular_values, exact, rtol=0, atol=float(found.error)
        )
    else:  # the least three are below the smallest normal number, 1e-38
        assert np.isinf(found.error)
        assert found.status == Status.INACCURATE
        np.testing.assert_allclose(
            found.log_singular_values[:9], exact[:9], rtol=0, atol=SINGLE_LAYERS
        )


@pytest.mark.parametrize(
    ("name", "known"),
    [("tanh", False), pytest.param("silu", False, marks=pytest.mark.slow), ("hard_tanh", True)],
)
def test_slopes_below_single_precision_are_not_zeros_that_are_certain(name, known):
    """Where a slope is 1e-50; on a plateau it is zero."""
    z = jnp.asarray([-120.0, 0.3, 0.9, 60.0], jnp.float32)[None, :, None]
    network = Chain((Pointwise(theory.activation(name)),))
    found = sigprop.sample_jacobian(network, z, key=KEY, width=4)
    assert np.isfinite(found.error) == known
    assert (found.status == Status.INACCURATE) or known
    assert found.zeros > 0


@pytest.mark.parametrize("separate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_dead_units_in_front_are_counted(separate):
    """A nonlinearity that comes first makes zero columns among the others."""
    network = theory.repeat(theory.layer(theory.activation("relu"), 2.0), 2)
    x = jax.random.normal(jax.random.key(3), (2, 1, N, 1))
    given = x if separate else x[0]
    found = sigprop.sample_jacobians(network, given, width=N, replicas=2)
    jacobian_of = jax.jit(
        lambda key, x: jax.jacobian(sigprop.networks.DrawnNetwork(network, key, N))(x)
    )
    for r in range(2):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), N), r)
        jacobian = np.asarray(jacobian_of(key, x[r] if separate else x[0])).reshape(N, N)
        exact = np.linalg.svd(jacobian, compute_uv=False)
        alive = int(np.sum(exact > 1e-12))
        assert 0 < alive < N
        assert found.zeros[r] == N - alive
        np.testing.assert_allclose(
            found.log_singular_values[r, :alive], np.log(exact[:alive]), rtol=0, atol=SOLUTION
        )


@pytest.mark.slow
def test_narrow_and_wide_layers():
    tanh = Pointwise(theory.activation("tanh"))
    x = jax.random.normal(KEY, (1, 20, 1))
    network = Chain((affine(1.5, width=5), tanh, affine(1.5, width=12)))
    found = sigprop.sample_jacobian(network, x, key=KEY, width=9)
    drawn = sigprop.networks.DrawnNetwork(network, KEY, 9)
    plain = jax.jit(jax.jacfwd(lambda v: drawn(v[None, :, None])[0, :, 0]))(x[0, :, 0])
    values = np.linalg.svd(plain, compute_uv=False)
    np.testing.assert_allclose(found.log_singular_values[:5], np.log(values[:5]), rtol=0, atol=FOLD)
    assert found.log_singular_values.shape == (12,)
    assert found.zeros == 7
    assert found.status == Status.OK


@pytest.mark.slow
def test_relu_networks_have_the_exact_law_of_hanin_and_nica():
    """|J v|² is a product of independent (2/n) χ²_K, K binomial(n, ½), and one (2/n) χ²_n.

    Whatever v is, a unit's tangent squared is independent of the sign of its pre-activation.
    So the mean of log|J v|² is about −5L/(2n), its variance about 5L/n (Hanin and Nica 2020,
    theorem 1).
    """
    depth, replicas = 6, 500
    network = theory.feedforward(theory.activation("relu"), 2.0, depth=depth)
    x = jax.random.normal(KEY, (1, N, 1))
    found = sigprop.sample_jacobians(network, x, width=N, replicas=replicas)
    logs = np.asarray(found.log_singular_values)
    np.testing.assert_array_equal(np.sum(np.isneginf(logs), axis=1), found.zeros)
    assert np.all(found.zeros > 0)
    assert np.all(found.status == Status.OK)
    # The first weights make the right singular vectors uniform.
    u = np.random.default_rng(5).standard_normal(logs.shape)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    gains = np.log(np.sum(np.exp(2 * logs) * u**2, axis=1))
    k = np.arange(1, N + 1)
    weight = binom.pmf(k, N, 0.5) / (1 - 0.5**N)
    one_layer = np.sum(weight * digamma(k / 2)) + np.log(4 / N)
    last = digamma(N / 2) + np.log(4 / N)
    exact = depth * one_layer + last
    standard_error = gains.std(ddof=1) / np.sqrt(replicas)
    assert abs(gains.mean() - exact) < 5 * standard_error
    assert 5 * depth / N < gains.var(ddof=1) < 2 * 5 * depth / N
    # Weights of 3 % more variance would be seen at the exact law's own precision in depth.
    assert (depth + 1) * np.log(1.06) > 3 * standard_error


@pytest.mark.slow
def test_batches_end_on_two_cores():
    """Before jaxlib 0.11.2, two independent batches of factorisations wait for each other."""
    code = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, numpy as np, sigprop
factors = 0.2 * jax.random.normal(jax.random.key(0), (4, 24, 64, 64))
values = lambda f: sigprop.jacobians.product_log_singular_values(f).log_singular_values
together = jax.jit(jax.vmap(values))(factors)
np.testing.assert_array_equal(together, jax.jit(lambda f: jax.lax.map(values, f))(factors))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
