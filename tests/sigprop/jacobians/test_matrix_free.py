"""Matrix-free spectra against dense ones: values, vectors, averages, and their errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import sigprop
import theory
from tests.tolerances import FOLD, LAYERS, LIMIT
from theory import Status

KEY = jax.random.key(0)


def fold(index):
    return jax.random.fold_in(KEY, index)


class Linear(eqx.Module):
    """x ↦ A x, so that tests of one shape share what is compiled."""

    matrix: jax.Array

    def __call__(self, x):
        return jnp.matmul(self.matrix, x, precision="highest")


def matrix(index, rows, columns):
    return jax.random.normal(fold(index), (rows, columns)) / jnp.sqrt(1.0 * columns)


def dense(a):
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


class TestLeadingValues:
    @pytest.mark.parametrize(
        "steps", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 24))]
    )
    def test_error_is_honest(self, steps):
        short = 0
        for index in range(6):
            a = matrix(index, 40, 30)
            found = sigprop.jacobians.leading_singular_values(
                Linear(a), jnp.ones(30), key=fold(index), count=4, steps=steps
            )
            exact = np.log(dense(a))
            # The claim: some singular value is that near. None is above its place.
            gap = np.abs(np.asarray(found.log_singular_values)[:, None] - exact).min(axis=1)
            assert np.all(gap <= found.error)
            assert np.all(found.log_singular_values <= exact[:4] + 1e-13)
            short += int(np.sum(found.status != Status.OK))
        assert (short > 0) == (steps < 24)

    def test_a_multiple_value_that_was_missed_is_a_status(self):
        """One Krylov space sees a five-fold value once, and by rounding perhaps again."""
        u, v = (jnp.linalg.qr(matrix(i, 40, 40))[0] for i in range(2))
        exact = jnp.concatenate([jnp.ones(5), 0.9 * 0.98 ** jnp.arange(35.0)])
        a = Linear((u * exact[None]) @ v.T)
        found = sigprop.jacobians.leading_singular_values(
            a, jnp.ones(40), key=KEY, count=4, steps=24
        )
        off = np.abs(found.log_singular_values)
        assert np.sum(off > 1e-6) > 0
        assert np.all((off <= found.error + 1e-14) & ((off < 1e-6) | (found.status != Status.OK)))
        assert found.status[0] == Status.OK
        assert np.all(np.isinf(found.error) == (found.status == Status.NOT_CONVERGED))

    def test_error_is_small_where_the_values_are_apart(self):
        u, v = (jnp.linalg.qr(matrix(i, 40, 40))[0] for i in range(2))
        a = (u * 0.5 ** jnp.arange(40.0)[None]) @ v.T
        found = sigprop.jacobians.leading_singular_values(Linear(a), jnp.ones(40), key=KEY, count=6)
        exact = -np.log(2.0) * np.arange(6)
        error = np.abs(found.log_singular_values - exact)
        assert np.all(error <= found.error)
        assert np.all(found.error < 1e-11)
        assert np.all(found.status == Status.OK)
        np.testing.assert_allclose(np.abs(np.sum(found.left * u.T[:6], 1)), 1, rtol=0, atol=FOLD)
        np.testing.assert_allclose(np.abs(np.sum(found.right * v.T[:6], 1)), 1, rtol=0, atol=FOLD)
        onward = found.right @ a.T
        np.testing.assert_allclose(onward, np.exp(exact)[:, None] * found.left, rtol=0, atol=FOLD)

    def test_equal_values_are_all_found(self):
        a = 3 * jnp.linalg.qr(matrix(0, 40, 40))[0]
        found = sigprop.jacobians.leading_singular_values(Linear(a), jnp.ones(40), key=KEY, count=6)
        np.testing.assert_allclose(found.log_singular_values, np.log(3), rtol=0, atol=LAYERS)
        gram = found.right @ found.right.T
        np.testing.assert_allclose(gram, np.eye(6), rtol=0, atol=LAYERS)

    @pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_beyond_the_range_of_numbers(self, dtype, scale):
        """Twelve factors: 1e-360 or 1e360, no number of either dtype."""
        a = matrix(1, 12, 12).astype(dtype)
        layers = [Linear(scale * a), *[Linear(jnp.eye(12, dtype=dtype) * scale)] * 11]
        found = sigprop.jacobians.leading_singular_values(
            layers, jnp.zeros(12, dtype), key=KEY, count=3
        )
        # The scale as a number of that dtype.
        shift = 12 * np.log(float(jnp.asarray(scale, dtype)))
        exact = np.log(dense(a)[:3]) + shift
        tolerance = 40 * float(jnp.finfo(dtype).eps) * abs(shift)
        np.testing.assert_allclose(found.log_singular_values, exact, rtol=0, atol=tolerance)

    @pytest.mark.slow
    def test_scales_add_up_without_rounding_in_float32(self):
        """Twenty layers that multiply by one number: its logarithm, twenty times."""
        scale = np.float32(1e-30)
        layers = [Linear(jnp.diag(jnp.full(8, scale)))] * 20
        found = sigprop.jacobians.leading_singular_values(
            layers, jnp.zeros(8, "float32"), key=KEY, count=1, tolerance=1e-5
        )
        assert found.status[0] == Status.OK
        assert abs(found.log_singular_values[0] - 20 * np.log(float(scale))) <= found.error[0]

    def test_missed_values_of_a_cluster_are_seen(self):
        """Ten values 1e-7 apart: as the eighth largest, the tenth is reported."""
        exact = np.log(np.r_[1 - 1e-7 * np.arange(10), np.linspace(0.5, 0.1, 90)])
        found = sigprop.jacobians.leading_singular_values(
            Linear(jnp.diag(jnp.exp(exact))), jnp.zeros(100), key=KEY, count=8
        )
        assert np.all(np.abs(found.log_singular_values - exact[:8]) <= found.error)
        assert found.status[0] == Status.OK
        assert found.status[7] == Status.NOT_CONVERGED

    def test_one_function_has_twice_the_range(self):
        a = matrix(1, 12, 12).astype("float32")

        def deep(x):
            for _ in range(2):
                x = jnp.matmul(a, x, precision="highest") * 1e-25
            return x

        found = sigprop.jacobians.leading_singular_values(
            deep, jnp.ones(12, "float32"), key=KEY, count=3
        )
        wide = np.asarray(a, np.float64)
        exact = np.log(dense(wide @ wide)[:3]) + 2 * np.log(float(jnp.float32(1e-25)))
        assert np.all(np.abs(found.log_singular_values - exact) <= found.error + 2e-5)

    @pytest.mark.slow
    def test_drawn_network(self):
        """Against the factored product of the same network, where s falls by e^-20."""
        phi = theory.activation("tanh")
        plain, sums = (theory.layer(phi, 0.6, 0.1, residual=own) for own in (False, True))
        deep = (theory.repeat(plain, 80), theory.repeat(sums, 4))
        network = theory.Chain((theory.affine(0.6, 0.1), *deep))
        x = jax.random.normal(KEY, (1, 16, 1))
        exact = sigprop.sample_jacobians(network, x, width=16, replicas=1, seed=0)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 16), 0)
        drawn = sigprop.networks.DrawnNetwork(network, key, 16)
        found = sigprop.jacobians.leading_singular_values(drawn, x, key=KEY, count=3)
        difference = np.abs(found.log_singular_values - exact.log_singular_values[0, :3])
        assert np.all(difference <= found.error + exact.error[0])
        assert np.all(found.error < 1e-6)
        assert exact.log_singular_values[0, 0] < -20

    def test_what_cannot_be_measured_says_so(self):
        zero = sigprop.jacobians.leading_singular_values(
            Linear(jnp.zeros((6, 5))), jnp.ones(5), key=KEY, count=2
        )
        assert np.all(np.isneginf(zero.log_singular_values))
        assert np.all(zero.status == Status.INFINITE)
        nan = sigprop.jacobians.leading_singular_values(jnp.log, -jnp.ones(5), key=KEY, count=2)
        assert np.all(np.isnan(nan.log_singular_values))
        assert np.all(nan.status == Status.INVALID)
        low = Linear(matrix(0, 6, 2) @ matrix(1, 2, 5))
        found = sigprop.jacobians.leading_singular_values(low, jnp.ones(5), key=KEY, count=4)
        assert list(found.status) == [Status.OK] * 2 + [Status.ABSENT] * 2
        np.testing.assert_allclose(
            found.log_singular_values[:2], np.log(dense(low.matrix)[:2]), rtol=0, atol=LAYERS
        )

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"count": 0}, "`count`: must be a whole number of at least 1"),
            ({"count": 6}, "`count`: must be at most min\\(rows, columns\\) = 5"),
            ({"count": 3, "steps": 2}, "`steps`: must be at least `count`, 3"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            sigprop.jacobians.leading_singular_values(
                Linear(jnp.eye(5)), jnp.ones(5), key=KEY, **options
            )

    @pytest.mark.parametrize(
        "fn", [sigprop.jacobians.leading_singular_values, sigprop.jacobians.estimate_spectrum]
    )
    def test_no_layers(self, fn):
        with pytest.raises(ValueError, match=r"^`fn`: must be a function or at least one layer"):
            fn([], jnp.ones(4), key=KEY)

    def test_weights_must_be_explicit(self):
        network = theory.feedforward(theory.activation("tanh"), 1.0, depth=2)
        drawn = sigprop.networks.DrawnNetwork(network, KEY, 8, explicit_weights=False)
        with pytest.raises(ValueError, match="explicit weights"):
            sigprop.jacobians.leading_singular_values(drawn, jnp.ones((1, 8, 1)), key=KEY)


class TestSpectrumEstimate:
    def test_standard_errors_are_honest(self):
        """z of 40 independent runs: their mean square is 1 and no mean is off."""
        a = matrix(0, 40, 30)
        s = dense(a)
        exact = np.array([np.mean(s ** (2 * p)) for p in (1, 2, 3)])
        z, change = [], []
        for index in range(40):
            found = sigprop.jacobians.estimate_spectrum(
                Linear(a), jnp.ones(30), key=fold(index), probes=24, steps=8, orders=3
            )
            mean = (found.log_mean - np.log(exact[0])) / found.log_mean_standard_error
            ratio = found.ratios - exact / exact[0] ** np.arange(1, 4)
            z.append([mean, *(ratio[1:] / found.ratios_standard_error[1:])])
            change.append(found.log_mean_standard_error)
        z = np.array(z)
        assert np.all(np.abs(z) < 6)
        assert np.all(np.abs(np.mean(z, axis=0)) < 5.2 / np.sqrt(40))
        # chi squared with 40 degrees of freedom, two-sided 1e-6 with room for t and skewness
        assert np.all((np.mean(z**2, axis=0) > 0.3) & (np.mean(z**2, axis=0) < 2.6))
        # Power: a mean 3 % wrong is seen by all of them together.
        assert 2 * np.sqrt(40) * 0.03 / np.mean(change) > 5.2 * 1.3

    @pytest.mark.slow
    def test_the_quadrature_has_no_error_in_the_moments(self):
        """Four steps give the same as all, to rounding."""
        a = matrix(0, 40, 30)
        few, all_ = (
            sigprop.jacobians.estimate_spectrum(
                Linear(a), jnp.ones(30), key=KEY, probes=4, steps=n, orders=4
            )
            for n in (4, 30)
        )
        np.testing.assert_allclose(few.log_mean, all_.log_mean, atol=FOLD)
        np.testing.assert_allclose(few.ratios, all_.ratios, rtol=1e-11)

    @pytest.mark.parametrize("rows", [24, pytest.param(60, marks=pytest.mark.slow)])
    def test_density(self, rows):
        """The smoothed density within its errors, for maps of either shape."""
        a = matrix(2, rows, 40)
        exact_nodes = np.log(dense(a))
        grid = jnp.linspace(-2.0, 1.0, 31)
        found = sigprop.jacobians.estimate_spectrum(
            Linear(a), jnp.ones(40), key=KEY, probes=64, steps=20, log_grid=grid, bandwidth=0.4
        )
        exact = scipy.stats.norm.pdf(np.asarray(grid)[:, None], exact_nodes, 0.4).mean(axis=1)
        allowed = 5.2 * found.density_standard_error + found.density_quadrature_error + 1e-12
        assert np.all(np.abs(found.density - exact) <= allowed)
        assert np.max(allowed) < 0.5 * np.max(exact)
        # Power: the density shifted by the bandwidth is not within them.
        off = scipy.stats.norm.pdf(np.asarray(grid)[:, None], exact_nodes + 0.4, 0.4).mean(axis=1)
        assert np.any(np.abs(found.density - off) > allowed)

    def test_quadrature_error_is_honest(self):
        """Against the same probes with all steps, where there is none."""
        a = matrix(3, 40, 40)
        grid = jnp.linspace(-3.0, 1.0, 41)
        run = lambda steps: sigprop.jacobians.estimate_spectrum(
            Linear(a), jnp.ones(40), key=KEY, probes=16, steps=steps, log_grid=grid, bandwidth=0.3
        )
        exact = run(40)
        assert np.all(exact.density_quadrature_error == 0)
        errors = []
        for steps in (10, 20):
            found = run(steps)
            error = np.abs(found.density - exact.density)
            # Pointwise differences pass through zero: the claim is for the whole.
            assert np.max(error) <= np.max(found.density_quadrature_error)
            errors.append(np.max(error))
        assert errors[1] < errors[0]

    def test_mass_that_few_steps_cannot_see_is_in_the_errors(self):
        """Half of all values are zero, or are spread where hardly a node of the rule is."""
        zeros = np.where(np.arange(256) < 128, 0.0, np.linspace(0.3, 1, 256))
        for s, tolerance in [(zeros, 0.6), (np.logspace(0, -30, 256), 0.95)]:
            fn = Linear(jnp.diag(jnp.asarray(s)))
            found = sigprop.jacobians.estimate_spectrum(fn, jnp.zeros(256), key=KEY, steps=12)
            small = s < 8 * 2.2e-16
            error = found.unresolved_quadrature_error + 5.2 * found.unresolved_standard_error
            assert abs(found.unresolved - np.mean(small)) <= error
            assert found.unresolved_quadrature_error < tolerance
            assert found.status == Status.INACCURATE
            grid, width = np.asarray(found.log_grid), float(found.bandwidth)
            exact = scipy.stats.norm.pdf(grid[:, None], np.log(s[~small]), width).sum(axis=1) / 256
            error = found.density_quadrature_error + 5.2 * found.density_standard_error
            assert np.all(np.abs(found.density - exact) <= error + 1e-12)

    def test_an_exhausted_space_leaves_nothing_open(self):
        fn = Linear(jnp.diag(jnp.where(jnp.arange(64) < 16, 0.0, 1.0)))
        found = sigprop.jacobians.estimate_spectrum(fn, jnp.zeros(64), key=KEY, steps=8)
        assert found.status == Status.OK
        assert found.unresolved_quadrature_error == 0
        assert np.all(found.density_quadrature_error == 0)
        assert abs(found.unresolved - 0.25) <= 5.2 * found.unresolved_standard_error

    def test_relu_and_zeros(self):
        """Of 40 directions 15 are dead: exactly that fraction is not resolved."""
        mask = jnp.where(jnp.arange(40) < 25, 1.0, 0.0)
        a = mask[:, None] * matrix(3, 40, 40)
        found = sigprop.jacobians.estimate_spectrum(
            Linear(a), jnp.ones(40), key=KEY, probes=64, steps=30
        )
        z = (found.unresolved - 15 / 40) / found.unresolved_standard_error
        assert abs(z) < 5.2
        assert found.unresolved_standard_error < 0.02
        integral = np.trapezoid(found.density, found.log_grid)
        np.testing.assert_allclose(integral, 1 - found.unresolved, rtol=0, atol=LIMIT)

    def test_what_cannot_be_measured_says_so(self):
        run = lambda fn, x: sigprop.jacobians.estimate_spectrum(
            fn, x, key=KEY, probes=4, steps=3, orders=2
        )
        zero = run(Linear(jnp.zeros((6, 5))), jnp.ones(5))
        assert zero.status == Status.INFINITE
        assert np.isneginf(zero.log_mean)
        assert zero.unresolved == 1
        nan = run(jnp.log, -jnp.ones(5))
        assert nan.status == Status.INVALID
        assert np.isnan(nan.log_mean)
        for options, name in (
            ({"probes": 1}, "probes"),
            ({"steps": 2}, "orders"),
            ({"bandwidth": 0.0}, "bandwidth"),
        ):
            with pytest.raises(ValueError, match=f"`{name}`: must be"):
                sigprop.jacobians.estimate_spectrum(
                    Linear(jnp.eye(5)), jnp.ones(5), key=KEY, **options
                )


@pytest.mark.slow
def test_a_network_with_another_width_than_its_input():
    """The factored product follows from a frame of one shape to one of another."""
    network = theory.feedforward(theory.activation("tanh"), 2.0, depth=3)
    x = jax.random.normal(KEY, (1, 6, 1))
    found = sigprop.sample_jacobians(network, x, width=10, replicas=1)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 10), 0)
    drawn = sigprop.networks.DrawnNetwork(network, key, 10)
    full = jax.jit(jax.jacfwd(lambda x: drawn(x).reshape(-1)))(x).reshape(10, 6)
    np.testing.assert_allclose(found.log_singular_values[0], np.log(dense(full)), atol=FOLD)
