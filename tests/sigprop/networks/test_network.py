"""Finite networks: the drawn law, and derivatives against those of the network itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import sigprop
import theory
from sigprop import sample_network
from sigprop.networks import FiniteNetwork, Signals
from sigprop.networks._sample import _orthogonal_tangent
from sigprop.networks._weights import draw_weights, product
from tests.tolerances import FOLD, LAYERS, SOLUTION
from theory import Chain, Pointwise, WeightLaw
from theory.description import interpret

TANH = theory.activation("tanh")
KEY = jax.random.key(7)


def inputs(n=2, width=12, k=1):
    return jax.random.normal(jax.random.key(3), (n, width, k))


def as_function(network, key, width):
    """The drawn network as a plain function of its inputs, all randomness fixed by the key."""

    def fn(x):
        n = x.shape[0]
        start = Signals(x, jnp.zeros((*x.shape, 1)), jnp.zeros(n))
        final, _ = interpret(network, FiniteNetwork(jax.random.fold_in(key, 0), width), start)
        return final.values

    return fn


@pytest.mark.parametrize("distribution", ["gaussian", "orthogonal"])
def test_weights_have_the_stated_second_moment(distribution):
    law = WeightLaw(1.7, distribution)
    w = draw_weights(law, KEY, 200, 100, jnp.float64)[..., 0]
    entries = np.asarray(w).ravel()
    expected = 1.7 / 100
    error = np.sqrt(2 / entries.size) * expected
    assert abs(np.mean(entries**2) - expected) < 5 * error
    # the check has power: 3 % would be seen
    assert 0.03 * expected > 2 * error


ALGEBRAS = [(1, "real"), (2, "complex"), (4, "quaternion")]


@pytest.mark.parametrize(("k", "algebra"), ALGEBRAS)
@pytest.mark.parametrize(("fan_out", "fan_in"), [(40, 40), (60, 40), (40, 60)])
def test_orthogonal_weights_are_orthogonal(fan_out, fan_in, k, algebra):
    law = WeightLaw(2.0, "orthogonal", k, algebra)
    w = draw_weights(law, KEY, fan_out, fan_in, jnp.float64)
    w = jnp.einsum("oia,apq->opiq", w, law.table).reshape(k * fan_out, k * fan_in)
    gram = w @ w.T if fan_out <= fan_in else w.T @ w
    larger = max(fan_out, fan_in)
    np.testing.assert_allclose(gram, 2.0 * larger / fan_in * np.eye(len(gram)), rtol=0, atol=FOLD)


@pytest.mark.parametrize(("k", "algebra"), ALGEBRAS)
def test_orthogonal_weights_are_haar(k, algebra):
    """Re tr Q of a Haar matrix has mean 0 and variance 1/k in O(n), U(n) and Sp(n), which it has
    not without the sign fix; |entry|² is a Beta variable with k/2 and k (n − 1)/2."""
    n, draws = 6, 4000
    law = WeightLaw(1.0, "orthogonal", k, algebra)
    draw = lambda key: draw_weights(law, key, n, n, jnp.float64)
    w = np.asarray(jax.lax.map(draw, jax.random.split(KEY, draws)))
    traces = np.trace(w[..., 0], axis1=1, axis2=2)
    assert abs(np.mean(traces)) < 5 / np.sqrt(k * draws)
    assert abs(k * np.var(traces) - 1) < 5 * np.sqrt(2 / draws)
    square = np.sum(w**2, axis=-1).reshape(draws, -1)
    beta = scipy.stats.beta(k / 2, k * (n - 1) / 2)
    for power in (1, 2):
        exact, spread = beta.moment(power), beta.moment(2 * power) - beta.moment(power) ** 2
        z = (np.mean(square**power, axis=0) - exact) / np.sqrt(spread / draws)
        assert np.max(np.abs(z)) < 5


def test_a_product_is_the_drawn_matrix_times_the_vectors():
    law = WeightLaw(1.3, components=2)
    vectors = jax.random.normal(KEY, (5, 2, 3))
    w = draw_weights(law, KEY, 4, 5, jnp.float64)
    expected = jnp.einsum("oiD,Dab,ibc->oac", w, law.table, vectors)
    np.testing.assert_allclose(product(law, KEY, vectors, 4), expected, rtol=LAYERS)


def test_the_first_layer_has_exactly_the_predicted_law():
    """z_0 is Gaussian at any width: mean and variance of |z_0|²/N are exact."""
    x = inputs(1)
    network = theory.feedforward(TANH, 1.5, 0.2, depth=1)
    samples = sigprop.sample_ensemble(network, x, width=16, replicas=4000)
    q = np.asarray(samples.samples.moments.covariance)[:, 0, 0, 0, 0, 0]
    expected = 1.5 * float(jnp.mean(x**2)) + 0.2
    error = expected * np.sqrt(2 / 16 / 4000)
    assert abs(q.mean() - expected) < 5 * error
    assert abs(q.var(ddof=1) / (2 * expected**2 / 16) - 1) < 0.15


@pytest.mark.parametrize("residual", [pytest.param(False, marks=pytest.mark.slow), True])
def test_tangents_are_derivatives_of_the_network(residual):
    network = theory.feedforward(TANH, 1.5, 0.2, depth=5, residual=residual)
    x = inputs()
    sample = sample_network(network, x, key=KEY, width=9)
    fn = as_function(network, KEY, 9)
    t = jnp.broadcast_to(_orthogonal_tangent(x, jax.random.fold_in(KEY, 1)), x.shape)
    values, pushed = jax.jit(lambda x, t: jax.jvp(fn, (x,), (t,)))(x, t)
    values, pushed, t, x = (np.asarray(a) for a in (values, pushed, t, x))
    last = jax.tree.map(lambda m: np.asarray(m)[-1], sample.moments)
    np.testing.assert_allclose(np.einsum("aui,bui->ab", x, t), 0, rtol=0, atol=LAYERS)
    np.testing.assert_allclose(np.mean(t[0] ** 2), 1, rtol=LAYERS)
    np.testing.assert_allclose(theory.length(last), np.mean(values**2, axis=(1, 2)), rtol=FOLD)
    scale = np.exp((last.log_gain[:, None] + last.log_gain[None]) / 2)
    measured = last.tangent[..., 0, 0] * scale
    expected = np.einsum("aui,bui->ab", pushed, pushed) / 9
    np.testing.assert_allclose(measured, expected, rtol=FOLD)


@pytest.mark.parametrize("residual", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradient_growth_is_that_of_reverse_mode(residual):
    """|∂L/∂z_l|² by differentiating the rest of the network directly."""
    depth, width = 2, 7
    network = theory.feedforward(TANH, 1.5, 0.2, depth=depth, residual=residual)
    x = inputs(2)
    sample = sample_network(network, x, key=KEY, width=width, gradients=True)
    reading = FiniteNetwork(jax.random.fold_in(KEY, 0), width)
    layers = reading.child(1).layers(depth)
    body = network.parts[1].body
    loss_key = jax.random.fold_in(KEY, 2)
    direction = jax.random.normal(loss_key, (2, width, 1))

    def rest(z, first):
        state = Signals(z, jnp.zeros((*z.shape, 1)), jnp.zeros(2))
        for layer in range(first, depth):
            part = jax.tree.map(lambda a, layer=layer: a[layer], body)
            at = jax.tree.map(lambda a, layer=layer: a[layer], layers)
            state, _ = interpret(part, at, state)
        return jnp.sum(direction * state.values), state

    @jax.jit
    def norms(x):
        start = Signals(x, jnp.zeros((*x.shape, 1)), jnp.zeros(2))
        z, _ = interpret(network.parts[0], reading.child(0), start)
        found = []
        for layer in range(depth + 1):
            g = jax.grad(lambda v, layer=layer: rest(v, layer)[0])(z.values)
            found.append(jnp.sum(g**2, axis=(1, 2)))
            if layer < depth:
                part = jax.tree.map(lambda a, layer=layer: a[layer], body)
                at = jax.tree.map(lambda a, layer=layer: a[layer], layers)
                z, _ = interpret(part, at, z)
        return jnp.stack(found)

    norms = np.asarray(norms(x))
    np.testing.assert_allclose(sample.gradient_growth, norms[1:-1] / norms[2:], rtol=FOLD)


def test_the_jacobian_has_the_singular_values_of_the_function():
    network = theory.feedforward(TANH, 1.5, 0.2, depth=6)
    x = inputs(1, 8)
    drawn = sigprop.sample_jacobian(network, x, key=KEY, width=8)
    jacobian = jax.jit(jax.jacfwd(as_function(network, KEY, 8)))(x).reshape(8, 8)
    expected = np.linalg.svd(jacobian, compute_uv=False)
    # numpy knows a singular value to a few eps of the largest
    np.testing.assert_allclose(
        np.exp(drawn.log_singular_values), expected, rtol=SOLUTION, atol=4e-16 * expected[0]
    )
    assert drawn.status == theory.Status.OK


@pytest.mark.slow
def test_a_deep_orthogonal_linear_network_keeps_all_singular_values_equal():
    linear = theory.activation("linear")
    network = theory.feedforward(linear, 0.5, depth=300, weights="orthogonal")
    drawn = sigprop.sample_jacobian(network, inputs(1, 10), key=KEY, width=10)
    np.testing.assert_allclose(drawn.log_singular_values, 301 * np.log(0.5) / 2, rtol=FOLD)


@pytest.mark.slow
def test_a_repeat_draws_what_the_chain_of_its_layers_draws():
    body = Chain((Pointwise(TANH), theory.affine(1.5, 0.1)))
    first = theory.affine(1.5, 0.1)
    x = inputs()
    repeated = sample_network(Chain((first, theory.repeat(body, 2))), x, key=KEY, width=6)
    chained = sample_network(Chain((first, Chain((body,) * 2))), x, key=KEY, width=6)
    np.testing.assert_allclose(repeated.moments.covariance, chained.moments.covariance, rtol=FOLD)


def test_replicas_do_not_depend_on_how_they_are_batched():
    network = theory.feedforward(TANH, 1.5, 0.1, depth=3)
    x = inputs()
    many = sigprop.sample_ensemble(network, x, width=8, replicas=7, block=3).samples
    few = sigprop.sample_ensemble(network, x, width=8, replicas=4, block=2).samples
    first = jax.tree.map(lambda a: a[:4], many)
    jax.tree.map(np.testing.assert_array_equal, first, few)
    other = sigprop.sample_ensemble(network, x, width=8, replicas=4, block=2, seed=1).samples
    assert not np.array_equal(few.moments.covariance, other.moments.covariance)


def test_compile_time_does_not_grow_with_depth():
    """The program is the same size at depth 3 and 300: a scan, not an unrolled loop."""

    def size(depth):
        network = theory.feedforward(TANH, 1.5, 0.1, depth=depth)
        run = eqx.filter_jit(lambda n, x: sample_network(n, x, key=KEY, width=8))
        return len(run.lower(network, inputs()).as_text().splitlines())

    assert size(300) == size(3)


def test_deep_chaos_neither_overflows_nor_loses_its_tangent_in_float32():
    network = theory.feedforward(TANH, 9.0, 0.1, depth=400)
    x = inputs().astype(jnp.float32)
    sample = sigprop.sample_ensemble(network, x, width=16, replicas=2, gradients=True).samples
    gain = sample.moments.log_gain[:, -1]
    assert np.all(np.isfinite(gain))
    # beyond what float32 holds without a logarithm
    assert np.all(gain > np.log(np.finfo(np.float32).max))
    assert np.all(np.isfinite(sample.gradient_growth))
    assert sample.moments.covariance.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"width": 0, "replicas": 2}, "width"),
        ({"width": 4, "replicas": 1}, "replicas"),
        ({"width": 2.5, "replicas": 2}, "width"),
        ({"width": 10**9, "replicas": 2, "explicit_weights": True}, "width"),
        ({"width": 4, "replicas": 2, "inputs": jnp.ones((2, 12))}, "inputs"),
        ({"width": 4, "replicas": 2, "inputs": jnp.full((2, 12, 1), jnp.nan)}, "inputs"),
    ],
)
def test_bad_ensembles_name_the_field(arguments, field):
    network = theory.feedforward(TANH, 1.5, depth=2)
    with pytest.raises(Exception, match=field):
        sigprop.sample_ensemble(network, **{"inputs": inputs(), **arguments})


def test_gradients_need_a_repeat():
    with pytest.raises(ValueError, match="Repeat"):
        sample_network(theory.affine(1.0), inputs(), key=KEY, width=4, gradients=True)


@pytest.mark.parametrize(
    ("fan_out", "fan_in", "distribution"),
    [
        (12, 7, "gaussian"),
        pytest.param(9, 9, "orthogonal", marks=pytest.mark.slow),
        (7, 12, "orthogonal"),
        pytest.param(9, 9, "gaussian", marks=pytest.mark.slow),
        pytest.param(7, 12, "gaussian", marks=pytest.mark.slow),
        pytest.param(12, 7, "orthogonal", marks=pytest.mark.slow),
    ],
)
def test_products_without_weights_have_the_law_of_products_with_them(distribution, fan_out, fan_in):
    """E y yᵀ, E |Wᵀg|⁴ and how Wᵀg and y hang together, in networks of a few units."""
    law = WeightLaw(1.3, distribution)
    vectors = jax.random.normal(KEY, (fan_in, 1, 2))
    back = jax.random.normal(jax.random.fold_in(KEY, 1), (fan_out, 1, 2))

    def one(key, explicit):
        fn = lambda v: product(law, key, v, fan_out, explicit=explicit)
        y, pull = jax.vjp(fn, vectors)
        # What comes back may depend on what went out, as a loss does.
        (g,) = pull(back * jnp.sign(y[:1]) + y)
        y, g = y[:, 0], g[:, 0]
        return jnp.concatenate(
            [
                (y.T @ y).ravel(),
                (y.T @ y).ravel() ** 2,
                (y[0] * y[1]).ravel(),
                y[0] ** 4,
                (g.T @ g).ravel(),
                (g.T @ g).ravel() ** 2,
                g[0] * g[1],
                (vectors[:, 0].T @ g).ravel(),
                y[0, 0] * g[0],
                (y[0, 0] * g[0]) ** 2,
            ]
        )

    keys = jax.random.split(jax.random.fold_in(KEY, 2), 40000)
    drawn = [
        np.asarray(jax.jit(lambda ks, e=explicit: jax.lax.map(lambda k: one(k, e), ks))(keys))
        for explicit in (True, False)
    ]
    means = [d.mean(axis=0) for d in drawn]
    # What orthogonal weights conserve does not fluctuate, save by rounding.
    error = np.sqrt(sum(d.var(axis=0) for d in drawn) / len(keys)) + 1e-12 * np.abs(means[0])
    z = (means[0] - means[1]) / error
    assert np.max(np.abs(z)) < 5.5
    # the check has power: 3 % more weight variance would be seen
    assert np.max(0.03 * np.abs(means[0]) / error) > 5.5


@pytest.mark.slow
def test_products_without_weights_keep_what_is_conserved():
    """Orthogonal weights keep every scalar product, and Wᵀ W = σ_w² on what was seen."""
    law = WeightLaw(1.0, "orthogonal")
    v = jax.random.normal(KEY, (40, 1, 3))
    y, pull = jax.vjp(lambda v: product(law, KEY, v, 40, explicit=False), v)
    np.testing.assert_allclose(y[:, 0].T @ y[:, 0], v[:, 0].T @ v[:, 0], rtol=FOLD)
    np.testing.assert_allclose(pull(y)[0], v, rtol=0, atol=FOLD)
    g = jax.random.normal(jax.random.fold_in(KEY, 5), y.shape)
    (back,) = pull(g)
    np.testing.assert_allclose(back[:, 0].T @ back[:, 0], g[:, 0].T @ g[:, 0], rtol=FOLD)
    # ⟨Wᵀg, v⟩ = ⟨g, W v⟩ holds exactly for what was seen, whatever the weights
    np.testing.assert_allclose(back[:, 0].T @ v[:, 0], g[:, 0].T @ y[:, 0], rtol=FOLD)
    _, pull = jax.vjp(lambda v: product(law, KEY, v, 4, explicit=False), v[:4])
    with pytest.raises(ValueError, match="width"):
        pull(g[:4])


@pytest.mark.slow
def test_networks_without_weights_agree_with_networks_of_weights():
    """Lengths, correlations, tangents and gradients of the two samplers, z by z."""
    network = theory.feedforward(TANH, 1.5, 0.2, depth=6)
    x = inputs()
    ensembles = [
        sigprop.sample_ensemble(
            network, x, width=24, replicas=8000, gradients=True, explicit_weights=explicit
        )
        for explicit in (True, False)
    ]
    for o in theory.OBSERVABLES.values():
        each = [sigprop.comparison.contributions(o, e.samples) for e in ensembles]
        error = np.sqrt(sum(c.var(axis=0, ddof=1) / len(c) for c in each))
        difference = each[0].mean(axis=0) - each[1].mean(axis=0)
        assert np.max(np.abs(difference) / error) < 5, o.name
        # 3 % of a tangent are 0.03 of its log.
        size = 1.0 if o.name == "log_gain" else np.abs(each[0].mean(axis=0))
        assert np.max(0.03 * size / error) > 5, o.name
