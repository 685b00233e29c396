"""The named activations against arbitrary precision, and what a user may pass."""

import inspect

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from tests.tolerances import FOLD, LAYER, ROUNDING
from theory.description._componentwise import componentwise
from theory.description._named_activations import ACTIVATION_NAMES, activation
from theory.description._nonlinearities import LeakyRelu

# what a user without a run-time type checker calls
unchecked_activation, unchecked_componentwise = map(inspect.unwrap, (activation, componentwise))

SELU_ALPHA = "1.6732632423543772848170429916717"
SELU_SCALE = "1.0507009873554804934193349852946"


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def elu(z, alpha=1):
    return z if z > 0 else alpha * mpmath.expm1(z)


def gelu_tanh(z):
    with mp.workdps(600):  # 1 + tanh cancels for z < 0
        inner = mpmath.sqrt(2 / mp.pi) * (z + mpf("0.044715") * z**3)
        return z * (1 + mpmath.tanh(inner)) / 2


EXACT = {
    "elu": elu,
    "erf": mpmath.erf,
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "gelu_tanh": gelu_tanh,
    "hard_tanh": lambda z: min(max(z, mpf(-1)), mpf(1)),
    "leaky_relu": lambda z: z if z >= 0 else mpf(0.01) * z,
    "linear": lambda z: z,
    "relu": lambda z: max(z, mpf(0)),
    "selu": lambda z: mpf(SELU_SCALE) * elu(z, mpf(SELU_ALPHA)),
    "sigmoid": sigmoid,
    "silu": lambda z: z * sigmoid(z),
    "sin": mpmath.sin,
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "tanh": mpmath.tanh,
}

ORDINARY = (1e-9, 1e-3, 0.03, 0.2, 0.6, 0.9, 1.1, 1.7, 2.6, 4.0, 6.0, 9.0, 13.0, 20.0)
EXTREME = (1e-150, 1e-30, 37.0, 50.0, 120.0, 1e3, 1e5, 1e9)


def signed(points):
    return tuple(-z for z in reversed(points)) + tuple(points)


def derivatives(phi, z):
    """φ, φ' and φ'', with one compilation for each function and shape."""

    def first(z):
        return jax.jvp(phi, (z,), (jnp.ones_like(z),))

    (value, slope), (_, bend) = jax.jit(lambda z: jax.jvp(first, (z,), (jnp.ones_like(z),)))(z)
    return value, slope, bend


def exact_derivatives(name, z):
    """φ' and φ'' by differences that never reach across a kink."""
    exact = EXACT[name]
    if name == "sin":
        return mpmath.cos(z), -mpmath.sin(z)
    far = abs(z) > 60  # every other φ is linear to all digits there
    step = mpf(1) / 16 if far else min(abs(z), mpf(1)) * mpf(10) ** -12
    below, here, above = exact(z - step), exact(z), exact(z + step)
    return (above - below) / (2 * step), (above - 2 * here + below) / step**2


def test_the_table_is_complete():
    assert set(EXACT) == set(ACTIVATION_NAMES)
    assert tuple(sorted(ACTIVATION_NAMES)) == ACTIVATION_NAMES
    for name in ACTIVATION_NAMES:
        assert activation(name).name == name


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_values_and_derivatives(name):
    phi, exact = activation(name), EXACT[name]
    points = signed(ORDINARY + EXTREME)
    got = derivatives(phi, jnp.asarray(points, jnp.float64))
    assert all(np.isfinite(values).all() for values in got)
    backward = jax.jit(jax.grad(lambda z: jnp.sum(phi(z))))(jnp.asarray(points, jnp.float64))
    np.testing.assert_allclose(backward, got[1], rtol=LAYER, atol=ROUNDING)
    for z, value, slope, bend in zip(points, *map(np.asarray, got), strict=True):
        with mp.workdps(700 if abs(z) < 1e-20 else 60):
            true, *rates = exact(mpf(z)), *exact_derivatives(name, mpf(z))
        # rounding the argument of a tail exp(-z²) costs z² roundings
        assert abs(float(value) - true) <= 1e-15 * (1 + min(z * z, 1500)) * abs(true) + 1e-300
        # what is relative in the tails of the slopes is in tests/honesty
        scale = 1 + min(abs(z), 50)
        assert abs(float(slope) - rates[0]) <= 1e-15 * scale
        assert abs(float(bend) - rates[1]) <= 5e-15 * scale
        if name in ("tanh", "sigmoid", "erf") and 1e-8 < abs(z) < 300:
            with mp.workdps(400):
                if name == "erf":
                    true = -4 * mpf(z) / mpmath.sqrt(mp.pi) * mpmath.exp(-(mpf(z) ** 2))
                else:
                    t, by = (mpf(z) / 2, mpf(1) / 4) if name == "sigmoid" else (mpf(z), 2)
                    true = -by * mpmath.tanh(t) / mpmath.cosh(t) ** 2
            assert abs(float(bend) - true) <= 3e-15 * abs(true) + 1e-300


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_single_precision(name):
    phi = activation(name)
    points = signed(ORDINARY + (1e-30, 37.0, 120.0, 1e3, 1e9))
    z = jnp.asarray(points, jnp.float32)
    values = jax.jit(lambda z: jax.jvp(phi, (z,), (jnp.ones_like(z),)))(z)
    assert all(v.dtype == jnp.float32 and np.isfinite(v).all() for v in values)
    for z, value in zip(np.asarray(points, np.float32), values[0], strict=True):
        with mp.workdps(30):
            true = EXACT[name](mpf(float(z)))
        assert abs(float(value) - true) <= 1e-6 * (1 + min(float(z) ** 2, 90)) * abs(true) + 1e-37


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_what_is_declared(name):
    """Each named activation passes the checks of `componentwise`; its kinks are where it bends."""
    phi = activation(name)
    again = componentwise(
        phi.fn, kinks=phi.kinks, scale=phi.scale, parity=phi.parity, name=phi.name
    )
    assert again.closed_form is None
    for wrong in {"odd", "even"} - {phi.parity}:
        with pytest.raises(ValueError, match=r"^`parity`: "):
            componentwise(phi.fn, parity=wrong)

    h = 1e-5
    candidates = np.arange(-40, 41) / 8
    near = candidates + h * np.asarray([[-2.0], [-1.0], [1.0], [2.0]])
    values = np.asarray(jax.jit(lambda z: phi(z))(jnp.asarray(near)))
    left, right = (values[1] - values[0]) / h, (values[3] - values[2]) / h
    smooth_change = 3 * h * 2  # at most 3 h |φ''|
    bends = set(candidates[np.abs(right - left) > smooth_change])
    # elu at alpha = 1 jumps in its second derivative only
    assert bends == (set() if name == "elu" else set(phi.kinks))


@pytest.mark.parametrize("name", ("erf", "leaky_relu", "linear", "relu", "sin"))
def test_closed_form_is_of_the_function_itself(name):
    parameters = {"negative_slope": -0.4} if name == "leaky_relu" else {}
    phi = activation(name, **parameters)
    q = 1.3
    t, w = np.polynomial.legendre.leggauss(60)
    z = np.concatenate([(t - 1) * 5, (t + 1) * 5])
    w = np.tile(w, 2) * 5 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    value, slope, _ = derivatives(phi, jnp.asarray(np.sqrt(q) * z))
    moments = [np.sum(w * value), np.sum(w * value**2), np.sum(w * slope**2)]
    assert phi.closed_form is not None
    np.testing.assert_allclose(
        phi.closed_form.single(jnp.asarray(q)), moments, rtol=FOLD, atol=ROUNDING
    )


def test_no_closed_form_elsewhere():
    named = {name for name in ACTIVATION_NAMES if activation(name).closed_form is not None}
    assert named == {"erf", "leaky_relu", "linear", "relu", "sin"}


# --- parameters -------------------------------------------------------------------------------


def test_parameters_are_swept_and_differentiated():
    slopes = jnp.asarray([0.0, 0.1, -0.5])
    z = jnp.asarray([-2.0, 3.0])

    def outputs(slope):
        phi = activation("leaky_relu", negative_slope=slope)
        return phi(z), phi.closed_form.single(jnp.asarray(2.0))[1]

    values, squares = jax.jit(jax.vmap(outputs))(slopes)
    np.testing.assert_allclose(values, [[0, 3], [-0.2, 3], [1, 3]], rtol=FOLD)
    np.testing.assert_allclose(squares, 1 + slopes**2, rtol=FOLD)

    # the closed form takes its parameter from the function: both see one leaf
    phi = activation("leaky_relu", negative_slope=0.3)
    assert len(jax.tree.leaves(phi)) == 1
    rate = jax.grad(lambda phi: phi.closed_form.single(jnp.asarray(2.0))[1])(phi)
    np.testing.assert_allclose(rate.fn.negative_slope, 0.6, rtol=FOLD)
    rate = jax.grad(lambda alpha: activation("elu", alpha=alpha)(jnp.asarray(-1.0)))(1.5)
    np.testing.assert_allclose(rate, np.expm1(-1.0), rtol=FOLD)


def test_an_activation_is_a_pytree_of_arrays():
    for name in ACTIVATION_NAMES:
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(activation(name)))
    phi = activation("tanh")
    assert jax.tree.structure(phi) == jax.tree.structure(activation("tanh"))
    assert float(jax.jit(lambda phi, z: phi(z))(phi, 0.5)) == float(jnp.tanh(0.5))


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    (
        ("swish2", {}, r"`name`: must be one of elu, erf, .*, tanh; got 'swish2'"),
        (3, {}, r"`name`: must be one of .*; got 3"),
        ("tanh", {"alpha": 1.0}, r"`alpha`: not a parameter of tanh, which has: none"),
        ("elu", {"slope": 1.0}, r"`slope`: not a parameter of elu, which has: alpha"),
        ("elu", {"alpha": float("nan")}, r"`alpha`: must be a finite real scalar; got nan"),
        ("elu", {"alpha": [1.0, 2.0]}, r"`alpha`: must be a finite real scalar; got \[1.0, 2.0\]"),
        ("leaky_relu", {"negative_slope": "a"}, r"`negative_slope`: must be a finite real .*"),
        ("leaky_relu", {"negative_slope": 1j}, r"`negative_slope`: must be a finite real .*"),
    ),
)
def test_bad_names_and_parameters(arguments, parameters, message):
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        unchecked_activation(arguments, **parameters)
    assert "\n" not in str(caught.value)


# --- any user's function ----------------------------------------------------------------------


def test_a_users_function():
    phi = componentwise(lambda z: jnp.abs(z) - 1, kinks=[0], scale=2, parity="even", name="vee")
    assert (phi.kinks, phi.scale, phi.parity, phi.name) == ((0.0,), 2.0, "even", "vee")
    assert float(phi(jnp.asarray(-3.0))) == 2
    assert componentwise(lambda z: z).name == "custom"
    assert componentwise(jnp.tanh).name == "tanh"
    assert componentwise(jnp.tanh, kinks=(2, -1, 2)).kinks == (-1.0, 2.0)


def test_a_users_module_keeps_its_leaves():
    phi = componentwise(LeakyRelu(jnp.asarray(0.2)), kinks=(0,))
    assert len(jax.tree.leaves(phi)) == 1
    assert phi.name == "LeakyRelu"


def test_construction_with_traced_parameters():
    def value(slope):
        module = LeakyRelu(slope)
        closed_over = componentwise(lambda z: slope * z, parity="odd")
        z = jnp.asarray(-2.0)
        return componentwise(module, kinks=(0,), parity=None)(z) + closed_over(z)

    np.testing.assert_allclose(jax.jit(value)(0.2), -0.8, rtol=FOLD)
    np.testing.assert_allclose(jax.vmap(value)(jnp.asarray([0.2, 0.5])), [-0.8, -2.0], rtol=FOLD)
    np.testing.assert_allclose(jax.grad(value)(0.2), -4.0, rtol=FOLD)
    # a function with no traced value is still checked
    with pytest.raises(ValueError, match=r"^`parity`: "):
        jax.jit(lambda z: componentwise(jnp.tanh, parity="even")(z))(0.2)


def not_a_number_above_one(z):
    return jnp.sqrt(1 - z)


def slope_not_a_number(z):
    return jnp.where(z > 0, z, jnp.sqrt(jnp.where(z > 0, z, 0.0)))


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    (
        (3, {}, r"`fn`: must be callable on an array; got 3"),
        (jnp.sum, {}, r"`fn`: must keep the shape of its argument; got \(\) for \(3,\)"),
        (lambda z: (z, z), {}, r"`fn`: must return one array; got .*"),
        (lambda z: z > 0, {}, r"`fn`: must keep the dtype of its argument; got bool for float64"),
        (
            lambda z: z.astype(jnp.float32),
            {},
            r"`fn`: must keep the dtype of its argument; got float32 for float64",
        ),
        (np.tanh, {}, r"`fn`: must be a function JAX can trace; .* TracerArrayConversionError: .*"),
        (lambda z: z[0], {}, r"`fn`: must be a function JAX can trace; on an array .*"),
        (jax.nn.softmax, {}, r"`fn`: must .*"),
        (
            lambda z: z - jnp.mean(z),
            {},
            r"`fn`: must act on each element separately, but at 0.15 .*",
        ),
        (lambda z: z * jnp.max(jnp.abs(z)), {}, r"`fn`: must act on each element separately.*"),
        (lambda z: jnp.sin(z) / z, {}, r"`fn`: fn must be finite, but is nan at 0.0"),
        (not_a_number_above_one, {}, r"`fn`: fn must be finite, but is nan at 1.1"),
        (
            slope_not_a_number,
            {},
            r"`fn`: the derivative of fn must be finite, but is (nan|inf) at -0.15",
        ),
        (jnp.tanh, {"kinks": (0.0, np.nan)}, r"`kinks`: must be a sequence of finite numbers.*"),
        (jnp.tanh, {"kinks": (np.inf,)}, r"`kinks`: must be a sequence of finite numbers.*"),
        (jnp.tanh, {"kinks": 1.0}, r"`kinks`: must be a sequence of finite numbers; got 1.0"),
        (jnp.tanh, {"scale": 0.0}, r"`scale`: must be a number in \(0, inf\); got 0.0"),
        (jnp.tanh, {"scale": -1}, r"`scale`: must be a number in \(0, inf\); got -1"),
        (jnp.tanh, {"scale": np.inf}, r"`scale`: must be a number in \(0, inf\); got inf"),
        (jnp.tanh, {"scale": np.nan}, r"`scale`: must be a number in \(0, inf\); got nan"),
        (jnp.tanh, {"scale": "1"}, r"`scale`: must be a number in \(0, inf\); got '1'"),
        (jnp.tanh, {"parity": "both"}, r'`parity`: must be "odd", "even" or None; got \'both\''),
        (jnp.cos, {"parity": "odd"}, r"`parity`: declared odd, but fn\(0.0\) = 1 and fn\(-0.0\).*"),
        (jnp.tanh, {"parity": "even"}, r"`parity`: declared even, but fn\(0.15\) = 0.148885 .*"),
        (jnp.tanh, {"name": ""}, r"`name`: must be a non-empty string; got ''"),
    ),
)
def test_bad_functions(fn, options, message):
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        unchecked_componentwise(fn, **options)
    assert "\n" not in str(caught.value)
