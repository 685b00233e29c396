"""Every compiled program, lowered for CUDA and TPU on a CPU, with the precision of its products."""

import ast
import functools
import os
import re
import subprocess
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop import alignment, jacobians, networks
from sigprop.comparison import _cells, _goldstone_study
from sigprop.experiments import Architecture, Study, _train
from sigprop.experiments._data import Labelled
from sigprop.jacobians import _jacobian_samples
from sigprop.networks import _coherence, _ensemble
from sigprop.probes import _probe
from sigprop.sweeps import _ratios, _sweep_program
from sigprop.sweeps._environment import environment
from tests.test_layout import MODULES
from theory.description import _componentwise
from theory.mean_field import _propagation
from theory.numerics import _precision
from theory.phases import _diagram, _one_layer

PLATFORMS = ("cuda", "tpu")
KEY = jax.random.key(0)
TANH = theory.activation("tanh")
LAYER = theory.layer(TANH, 1.5, 0.05)
DEEP = theory.feedforward(TANH, 1.5, 0.05, depth=2)
LONG = theory.feedforward(TANH, 1.5, 0.05, depth=20)
STEPS = theory.recurrent(TANH, 1.2, 0.1, steps=3)
FACTORS = theory.jacobian_factors(LAYER, 1.0).repeated(3)


def drawn(weights="gaussian", algebra=None):
    if algebra is None:
        return theory.feedforward(TANH, 1.5, 0.05, depth=2, weights=weights)
    how = {"components": 4, "algebra": algebra, "weights": weights}
    return theory.feedforward(theory.radial("tanh"), 2.0, 0.0, depth=2, **how)


def signals(n=2, k=1, dtype="float32", width=40):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, width, k)), dtype)


def sample(network=DEEP, k=1, n=2, dtype="float32", **how):
    run = lambda x, key: sigprop.sample_network(network, x, key=key, width=16, **how)
    return run, signals(n, k, dtype), KEY


def exponents(network=LONG, n=1, dtype="float32", **how):
    run = lambda x, key: jacobians.sample_exponents(network, x, key=key, width=16, count=3, **how)
    return run, signals(n, dtype=dtype), KEY


def jacobian(network=DEEP, k=1, dtype="float32", **how):
    run = lambda x, key: jacobians.sample_jacobian(network, x, key=key, width=16, **how)
    return run, signals(1, k, dtype), KEY


def dense(x):
    return jnp.tanh(jnp.matmul(x, jnp.ones((x.shape[-1], 6), x.dtype), precision="highest"))


def network(dtype="float32", algebra="real", weights="gaussian", precision="highest"):
    """A drawn network, and an input to it."""
    k = 1 if algebra == "real" else 4
    part = drawn(weights, None if k == 1 else algebra)
    return networks.DrawnNetwork(part, KEY, 16, True, precision), signals(1, k, dtype)


def matrix_free(run, **how):
    fn, x = network(**how)
    return lambda x: run(fn, x), x


def moments(*lead):
    """Those of two inputs after three layers, of networks in front."""
    one = jax.eval_shape(theory.mean_field.signal_moments, signals())
    return jax.tree.map(lambda x: jnp.ones((*lead, 3, *x.shape), x.dtype), one)


def training(kind, each=_train.one_by_one, measures=(), precision="highest", **how):
    own = Architecture("own", **how)
    study = Study(
        (own,),
        "python" if own.cell == "transformer" else "digits",
        depth=2,
        features=8,
        batch=2,
        epochs=1,
        measures=measures,
        precision=precision,
    )
    number = jnp.float32 if own.cell != "transformer" else jnp.int32
    x, y = jnp.ones((4, 8), number), jnp.zeros(4, jnp.int32)
    if own.cell == "transformer":
        y = jnp.zeros((4, 8), jnp.int32)
    data = Labelled(x, y, x, y, 10, 2)
    model = _train.model_of(study, own, data)
    ones, seeds = jnp.ones(2, jnp.float32), jnp.arange(2, dtype=jnp.int32)
    start = lambda: _train._start(model, study, ones, seeds, each)
    states = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), eqx.filter_eval_shape(start))
    if kind == "start":
        return lambda ones: _train._start(model, study, ones, seeds, each), ones
    if kind == "measure":
        return lambda s: _train._measure(model, study, data, s, ones, seeds, each), states
    stop = jnp.int32(2)
    return lambda s: _train._advance(model, study, data, s, ones, seeds, stop, each), states


def sweep(**how):
    shown = {"depth": 2, "width": 8, "replicas": 2, "input_width": 16, **how}
    mesh = jax.make_mesh(
        (1,), ("devices",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,)
    )
    engine = _sweep_program.Engine(sigprop.Sweep(**shown), mesh, 2)
    return _sweep_program.traced(*engine.kind(0))


def built(weight_variance):
    return theory.layer(TANH, weight_variance, 0.05)


def rotating(weight_variance):
    return theory.layer(theory.radial("tanh"), weight_variance, 0.0, components=4)


POINTS = {"weight_variance": jnp.linspace(1.0, 2.0, 3)}
ONE, TIGHT = jnp.asarray(1.0), jnp.asarray(1e-10)

# What it is called with, by module and function; words after that name a variant.
PROGRAMS = {
    "sigprop/networks/_sample:_sampled": lambda: sample(gradients=True),
    "sigprop/networks/_sample:_sampled sparse": lambda: sample(drawn(theory.SparseWeights(0.5))),
    "sigprop/networks/_sample:_sampled orthogonal": lambda: sample(drawn("orthogonal")),
    "sigprop/networks/_sample:_sampled unitary": lambda: sample(drawn("orthogonal", "complex"), 4),
    "sigprop/networks/_sample:_sampled symplectic": lambda: sample(
        drawn("orthogonal", "quaternion"), 4
    ),
    "sigprop/networks/_sample:_sampled without matrices": lambda: sample(
        explicit_weights=False, gradients=True
    ),
    "sigprop/networks/_sample:_sampled orthogonal, without matrices": lambda: sample(
        drawn("orthogonal"), explicit_weights=False, gradients=True
    ),
    "sigprop/networks/_sample:_sampled symplectic, without matrices": lambda: sample(
        drawn("orthogonal", "quaternion"), 4, explicit_weights=False
    ),
    "sigprop/networks/_sample:_sampled recurrent": lambda: sample(STEPS, n=3, gradients=True),
    "sigprop/networks/_sample:_sampled recurrent, without matrices": lambda: sample(
        STEPS, n=3, explicit_weights=False, gradients=True
    ),
    "sigprop/networks/_sample:_applied": lambda: network(),
    "sigprop/networks/_ensemble:_sample_block": lambda: (
        lambda x, rows: _ensemble._sample_block(DEEP, x, KEY, rows, 16, False, True, "highest"),
        signals(),
        jnp.arange(2),
    ),
    "sigprop/networks/_coherence:_block": lambda: (
        lambda x, rows: _coherence._block(DEEP, x, KEY, rows, 16, None, True),
        signals(),
        jnp.arange(2),
    ),
    "sigprop/jacobians/_exponents:_sampled": lambda: exponents(),
    "sigprop/jacobians/_exponents:_sampled without matrices": lambda: exponents(
        explicit_weights=False
    ),
    "sigprop/jacobians/_exponents:_sampled recurrent": lambda: exponents(
        theory.recurrent(TANH, 1.2, 0.1, steps=20), 20
    ),
    "sigprop/jacobians/_jacobian_samples:_sampled": lambda: jacobian(),
    "sigprop/jacobians/_jacobian_samples:_sampled unitary": lambda: jacobian(
        drawn("orthogonal", "complex"), 4
    ),
    "sigprop/jacobians/_jacobian_samples:_jacobian_block": lambda: (
        lambda x: _jacobian_samples._jacobian_block(DEEP, x, KEY, jnp.arange(2), 16, "highest"),
        signals(1),
    ),
    "sigprop/jacobians/_product:_product_spectrum": lambda: (
        jacobians.product_log_singular_values,
        signals(3, 8, width=8),
    ),
    "sigprop/jacobians/_product:_product_spectrum side by side": lambda: (
        jax.vmap(jacobians.product_log_singular_values),
        signals(6, 8, width=8).reshape(2, 3, 8, 8),
    ),
    "sigprop/jacobians/_spectrum_estimate:_estimate": lambda: matrix_free(
        lambda fn, x: jacobians.estimate_spectrum(fn, x, key=KEY, probes=2, steps=4)
    ),
    "sigprop/jacobians/_leading_values:_leading": lambda: matrix_free(
        lambda fn, x: jacobians.leading_singular_values(fn, x, key=KEY, count=2, steps=4)
    ),
    "sigprop/jacobians/_goldstone:_certified": lambda: matrix_free(
        lambda fn, x: jacobians.certify(fn, x, theory.phases.generators(fn.network)),
        algebra="complex",
    ),
    "sigprop/jacobians/_goldstone:_charges": lambda: matrix_free(
        lambda fn, x: jacobians.backward_charges(
            fn, x, jnp.ones((1, 16, 4), x.dtype), theory.phases.generators(fn.network)
        ),
        algebra="complex",
    ),
    "sigprop/alignment/_gauge:_frame_drift": lambda: (
        lambda w: alignment.frame_drift(w, w, steps=3),
        signals(3, 8, width=8),
    ),
    "sigprop/alignment/_singular_vectors:_leading": lambda: (
        alignment.leading_vectors,
        signals(3, 8, width=8),
    ),
    "sigprop/alignment/_singular_vectors:_leading of large ones": lambda: (
        alignment.leading_vectors,
        signals(2, 100, width=100),
    ),
    "sigprop/alignment/_continuity:_frobenius_cosines": lambda: (
        alignment.frobenius_cosines,
        signals(3, 8, width=8),
    ),
    "sigprop/alignment/_continuity:_gram_cosines": lambda: (
        alignment.gram_cosines,
        signals(3, 8, width=8),
    ),
    "sigprop/alignment/_continuity:_spectra": lambda: (alignment.spectra, signals(3, 8, width=8)),
    "sigprop/probes/_probe:_outputs": lambda: (lambda x: _probe._outputs(dense, x), signals()),
    "sigprop/probes/_probe:_passed": lambda: (
        lambda x: _probe._passed([dense, dense], x, KEY),
        signals(),
    ),
    "sigprop/probes/_probe:_factors": lambda: (
        lambda x: _probe._factors([dense, dense], x, 40),
        signals()[0, :, 0],
    ),
    "sigprop/probes/_probe:_dense": lambda: (
        lambda x: _probe._dense(dense, x, 1e-6),
        signals(width=6),
    ),
    "sigprop/probes/_probe:_matrix_free": lambda: (
        lambda x: _probe._matrix_free(dense, x, (240, 40), 1e-6, KEY),
        signals(),
    ),
    "sigprop/comparison/_cells:_contributions": lambda: (
        lambda m: _cells._contributions(theory.OBSERVABLES["correlation"], m),
        moments(2),
    ),
    "sigprop/comparison/_cells:_of_networks": lambda: (
        lambda m: _cells._of_networks(theory.OBSERVABLES["correlation"], m),
        moments(2),
    ),
    "sigprop/comparison/_cells:_with_error": lambda: (
        lambda m: _cells._with_error(
            theory.OBSERVABLES["correlation"], theory.mean_field.PreActivation(m, m)
        ),
        moments(),
    ),
    "sigprop/comparison/_goldstone_study:_profile_means": lambda: (
        lambda rows, x: _goldstone_study._profile_means(
            rows, drawn("gaussian", "real"), theory.radial("tanh"), x, KEY, 16, True
        ),
        jnp.arange(2),
        signals(1, 4),
    ),
    "sigprop/experiments/_train:_start": lambda: training("start"),
    "sigprop/experiments/_train:_advance": lambda: training("advance"),
    "sigprop/experiments/_train:_advance side by side": lambda: training(
        "advance", _train.side_by_side
    ),
    "sigprop/experiments/_train:_advance gru": lambda: training(
        "advance", cell="gru", weights="orthogonal"
    ),
    "sigprop/experiments/_train:_advance block": lambda: training("advance", cell="block"),
    "sigprop/experiments/_train:_advance transformer": lambda: training(
        "advance", cell="transformer"
    ),
    "sigprop/experiments/_train:_measure": lambda: training(
        "measure", measures=("signals", "classes", "jacobian")
    ),
    "sigprop/sweeps/_ratios:_values": lambda: (
        lambda a, b: _ratios._values(theory.OBSERVABLES["correlation"], a, b),
        jnp.ones((2, 3, 2)),
        jnp.ones((2, 3, 1)),
    ),
    "sigprop/sweeps/_ratios:_first_order": lambda: (
        lambda a, b: _ratios._first_order(
            theory.OBSERVABLES["correlation"], (a, b), (a[:, 0], b[:, 0])
        ),
        jnp.ones((2, 2, 3, 2)),
        jnp.ones((2, 2, 3, 1)),
    ),
    "sigprop/sweeps/_sweep_program:sharded": lambda: sweep(
        observables=("length", "gradient_growth")
    ),
    "sigprop/sweeps/_sweep_program:sharded several at once": lambda: sweep(networks_at_once=4),
    "theory/description/_componentwise:_probe": lambda: (
        lambda z: _componentwise._probe(jnp.tanh, z),
        jnp.ones(3),
    ),
    "theory/mean_field/_propagation:_propagated": lambda: (
        lambda x: theory.propagate(drawn("orthogonal", "complex"), x),
        signals(k=4, dtype="float64"),
    ),
    "theory/mean_field/_propagation:_propagated in float32": lambda: (
        lambda x: theory.propagate(theory.numerics.cast(DEEP, jnp.float32), x),
        signals(),
    ),
    "theory/mean_field/_propagation:_propagated through time": lambda: (
        lambda x: theory.propagate(STEPS, x),
        signals(3, dtype="float64"),
    ),
    "theory/mean_field/_propagation:_propagated normalised": lambda: (
        lambda x: theory.propagate(
            theory.Chain((theory.affine(1.0), theory.Normalise(), LAYER)), x
        ),
        signals(dtype="float64"),
    ),
    "theory/gradients/_coherence:_coherence": lambda: (
        lambda x: theory.gradients.gradient_coherence(DEEP, x),
        signals(dtype="float64"),
    ),
    "theory/gradients/_coherence:_coherence of units": lambda: (
        lambda x: theory.gradients.gradient_coherence(drawn("orthogonal", "complex"), x),
        signals(k=4, dtype="float64"),
    ),
    "theory/finite_width/_length_correction:_corrected": lambda: (
        lambda q: theory.finite_width.length_correction(DEEP, q),
        ONE,
    ),
    "theory/finite_width/_generic_exponent:_expanded": lambda: (
        lambda w: theory.finite_width.generic_exponent(TANH, w),
        2 * ONE,
    ),
    "theory/phases/_symmetry:_sectors": lambda: (
        lambda w: theory.sectors(rotating(w), theory.Estimate(ONE, TIGHT, jnp.int8(0))),
        ONE,
    ),
    "theory/phases/_critical:_line_at": lambda: (
        lambda q: theory.critical_line(TANH, q),
        jnp.ones(3),
    ),
    "theory/phases/_critical:_search": lambda: (
        lambda b: theory.critical_points(TANH, b),
        ONE,
    ),
    "theory/phases/_length_point:_fixed_points": lambda: (
        lambda w: theory.fixed_points(built(w)),
        ONE,
    ),
    "theory/phases/_one_layer:_one_layer": lambda: (
        lambda w, x: _one_layer.one_layer(built(w), w, x, errors=True),
        ONE,
        ONE / 2,
    ),
    "theory/phases/_diagram:_lengths": lambda: (
        functools.partial(_diagram._lengths, built),
        POINTS,
        ONE,
        TIGHT,
    ),
    "theory/phases/_diagram:_sectors_of": lambda: (
        functools.partial(_diagram._sectors_of, rotating),
        POINTS,
        ONE,
        TIGHT,
    ),
    "theory/phases/_diagram:_reach": lambda: (
        functools.partial(_diagram._reach, built),
        POINTS,
        ONE,
        TIGHT,
    ),
    "theory/phases/_diagram:_finish": lambda: (
        functools.partial(_diagram._finish, built, order=64),
        POINTS,
        _diagram._nowhere(3),
        TIGHT,
    ),
    "theory/phases/_stationary:_stationary": lambda: (
        lambda w: theory.phases.stationary_state(built(w), 0.1),
        ONE,
    ),
    "theory/phases/_length_cycle:_length_cycle": lambda: (
        lambda w: theory.phases.length_cycle(built(w)),
        ONE,
    ),
    "theory/phases/_prediction:_predict": lambda: (
        lambda w: theory.predict(theory.layer(theory.activation("relu"), w, 0.05)),
        ONE,
    ),
    "theory/phases/_prediction:_predict of tanh": lambda: (
        lambda w: theory.predict(built(w)),
        ONE,
    ),
    "theory/spectrum/_singular_values:_distribution": lambda: (
        lambda f: theory.singular_value_distribution(f, jnp.linspace(-2.0, 1.0, 5)),
        FACTORS,
    ),
    "theory/spectrum/_singular_values:_quantiles": lambda: (
        lambda f: theory.singular_value_quantiles(f, jnp.linspace(0.1, 0.9, 5)),
        FACTORS,
    ),
    "theory/spectrum/_singular_values:_summary": lambda: (
        theory.spectrum.spectrum_summary,
        FACTORS,
    ),
    "theory/spectrum/_edges:_spectrum_edges": lambda: (theory.spectrum.spectrum_edges, FACTORS),
    "theory/spectrum/_jacobian_moments:_jacobian_moments": lambda: (
        theory.spectrum.jacobian_moments,
        FACTORS,
    ),
    "theory/spectrum/_jacobian_moments:_lyapunov_quantiles": lambda: (
        lambda f: theory.spectrum.lyapunov_quantiles(f, jnp.linspace(0.1, 0.9, 5)),
        FACTORS,
    ),
    "theory/spectrum/_jacobian_moments:goldstone_gains": lambda: (
        functools.partial(theory.spectrum.goldstone_gains, drawn("orthogonal", "complex")),
        signals(1, 4, dtype="float64"),
    ),
    "theory/spectrum/_factors:_read": lambda: (
        lambda q: theory.jacobian_factors(DEEP, q),
        ONE,
    ),
    "theory/spectrum/_residual_moments:_moments": lambda: (
        lambda q: theory.spectrum.residual_moments(
            theory.layer(TANH, 1.5, residual=True), q, depth=3
        ),
        ONE,
    ),
}


# Of these a sibling that contains most of it stays in the default suite.
LONG_ONES = {
    "sigprop/networks/_sample:_sampled without matrices",
    "theory/phases/_one_layer:_one_layer",
    "theory/phases/_diagram:_reach",
    "theory/spectrum/_singular_values:_summary",
    "sigprop/networks/_sample:_sampled recurrent",
    "sigprop/networks/_ensemble:_sample_block",
    "sigprop/jacobians/_exponents:_sampled without matrices",
    "sigprop/jacobians/_jacobian_samples:_jacobian_block",
    "sigprop/jacobians/_spectrum_estimate:_estimate",
    "sigprop/jacobians/_leading_values:_leading",
    "theory/phases/_diagram:_lengths",
    "theory/phases/_diagram:_sectors_of",
    "sigprop/networks/_sample:_sampled unitary",
    "sigprop/networks/_sample:_sampled symplectic, without matrices",
    "sigprop/networks/_sample:_sampled recurrent, without matrices",
    "sigprop/jacobians/_exponents:_sampled recurrent",
    "sigprop/jacobians/_jacobian_samples:_sampled unitary",
    "sigprop/jacobians/_product:_product_spectrum side by side",
    "sigprop/experiments/_train:_advance side by side",
    "sigprop/sweeps/_sweep_program:sharded several at once",
    "theory/gradients/_coherence:_coherence of units",
    "theory/mean_field/_propagation:_propagated normalised",
    "theory/phases/_prediction:_predict of tanh",
}


def by_speed(names, long_ones):
    slow = pytest.mark.slow
    return [pytest.param(name, marks=slow if name in long_ones else ()) for name in names]


def lowered(made, platforms=PLATFORMS):
    if not isinstance(made, tuple):
        return made.lower(lowering_platforms=platforms).as_text()
    fn, *args = made
    whole = jax.jit(lambda *args: eqx.filter(fn(*args), eqx.is_array))
    return whole.trace(*args).lower(lowering_platforms=platforms).as_text()


def products(text):
    """The precision of every product of a program."""
    lines = re.findall(r"stablehlo\.(?:dot_general|convolution).*", text)
    return [re.findall("DEFAULT|HIGHEST|HIGH", line) or ["DEFAULT"] for line in lines]


@pytest.mark.parametrize("name", by_speed(PROGRAMS, LONG_ONES))
def test_it_lowers_and_every_product_is_exact(name):
    text = lowered(PROGRAMS[name]())
    for target in re.findall(r"custom_call @([\w.$]+)", text):
        assert not re.search("lapack|callback", target)
    assert {word for found in products(text) for word in found} <= {"HIGHEST"}


ASKED = {
    "signals": lambda how: sample(precision=how),
    "signals without matrices": lambda how: sample(explicit_weights=False, precision=how),
    "Jacobians": lambda how: jacobian(precision=how),
    "exponents": lambda how: exponents(precision=how),
    "matrix-free": lambda how: matrix_free(
        lambda fn, x: jacobians.leading_singular_values(fn, x, key=KEY, count=2, steps=4),
        precision=how,
    ),
    "training": lambda how: training("advance", precision=how),
    "transformers": lambda how: training("advance", cell="transformer", precision=how),
    "sweeps": lambda how: sweep(precision=how),
}


@pytest.mark.parametrize("name", by_speed(ASKED, {*ASKED} - {"signals"}))
def test_a_caller_who_asks_for_less_gets_it(name):
    found = products(lowered(ASKED[name]("default"), ("tpu",)))
    assert ["DEFAULT", "DEFAULT"] in found


def test_a_function_of_a_user_keeps_its_own_precision():
    def own(x):
        return jnp.tanh(jnp.matmul(jnp.ones((5, 40), x.dtype), x))

    x = signals()[0, :, 0]
    run = lambda x: jacobians.leading_singular_values(own, x, key=KEY, count=2, steps=4)
    text = lowered((run, x), ("tpu",))
    shapes = re.findall(r"dot_general.*DEFAULT.*: (.*)", text)
    assert {"5x40xf32" in shape for shape in shapes} == {True}


def test_batches_of_factorisations_are_split_on_a_cpu_alone():
    """Where a device has many cores of its own, they run at once."""
    batch = (jax.vmap(networks.qr), jnp.ones((3, 4, 4)))
    loops = {name: "stablehlo.while" in lowered(batch, (name,)) for name in ("cpu", "cuda")}
    assert loops == {"cpu": True, "cuda": False}


JITS = {"jit", "hasty_jit", "filter_jit", "one_program", "directly", "directly_if", "compiled"}
# Helpers that compile what they are given, and programs that are on the host in any case.
HELPERS = {
    "theory/numerics/_compiled.py",
    "theory/numerics/_elementwise.py",
    "theory/description/_on_numpy.py",
}


def is_jit(node):
    word = ast.unparse(node.func if isinstance(node, ast.Call) else node)
    return word.split(".")[-1] in JITS or (word == "functools.partial" and is_jit(node.args[0]))


def compiled_functions():
    """The functions that are compiled, as decorated or named where that is done."""
    for path, tree in MODULES.items():
        if path in HELPERS or path.startswith(("tests/", "scripts/")):
            continue
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        names = [f.name for f in functions if any(map(is_jit, f.decorator_list))]
        decorators = {id(one) for f in functions for one in f.decorator_list}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and is_jit(node) and id(node) not in decorators:
                names.append(ast.unparse(node.args[0]).split(".")[-1])
        yield from (f"{path.removesuffix('.py')}:{name}" for name in names)


def test_every_compiled_function_is_in_the_table():
    # `theory.propagate` is in the table by the function that it calls.
    found = {name for name in compiled_functions() if not name.endswith(":propagate")}
    assert found - {name.split(" ")[0] for name in PROGRAMS} == set()


@pytest.fixture
def on_tpu(monkeypatch):
    for module in (_precision, _propagation):
        monkeypatch.setattr(module, "device_of", lambda *_: types.SimpleNamespace(platform="tpu"))


def test_float64_is_refused_on_a_tpu(on_tpu):
    for name, call in {
        "predict": lambda: theory.predict(LAYER),
        "inputs": lambda: sigprop.sample_network(DEEP, signals(dtype="float64"), key=KEY, width=4),
        "network": lambda: theory.propagate(DEEP, signals()),
    }.items():
        with pytest.raises(ValueError, match=f"^`{name}`: must not be in float64 on a TPU"):
            call()
    jax.eval_shape(lambda x: sigprop.sample_network(DEEP, x, key=KEY, width=4), signals())


class _Tpu(types.SimpleNamespace):
    """What a mesh and an environment read of a device."""

    __hash__ = object.__hash__


TPU = _Tpu(platform="tpu", device_kind="TPU v5 lite", id=0, process_index=0, client=None)


def test_a_sweep_names_the_device_of_its_mesh(tmp_path):
    small = sigprop.Sweep(depth=2, width=8, replicas=2)
    here, there = environment(small), environment(small, TPU)
    known = ("platform", "device", "compiler", "networks_at_once")
    assert [there[name] for name in known] == ["tpu", "TPU v5 lite", {}, 32]
    assert {name for name in here if here[name] != there[name]} <= set(known)
    mesh = jax.sharding.Mesh(np.array([TPU]), ("devices",))
    exact = sigprop.Sweep(depth=2, width=8, replicas=2, dtype="float64")
    with pytest.raises(ValueError, match=r"^`dtype`: must not be in float64 on a TPU"):
        sigprop.run_sweep(exact, tmp_path / "sweep.zarr", mesh=mesh)
    assert not list(tmp_path.iterdir())


TWO_DEVICES = """
import sys, jax, numpy as np, sigprop, theory
first, second = jax.devices()
jax.config.update("jax_default_device", second)
x = np.random.default_rng(0).normal(size=(2, 16, 1)).astype(np.float32)
network = theory.feedforward(theory.activation("tanh"), 1.5, 0.05, depth=2)
there = jax.device_put(x, first)
sample = sigprop.sample_network(network, there, key=jax.random.key(0), width=8)
assert sample.status.devices() == {first}
assert theory.propagate(network, x).value.covariance.devices() == {second}
assert len(sigprop.comparison.compare(network, there, widths=(8, 12, 16), replicas=8).cells) == 4
mesh = jax.make_mesh((1,), ("d",), (jax.sharding.AxisType.Auto,), devices=[first])
sweep = sigprop.Sweep(depth=2, width=8, replicas=2, input_width=16)
assert sigprop.run_sweep(sweep, sys.argv[1], mesh=mesh).computed == 2
"""


@pytest.mark.slow
def test_programs_run_where_their_inputs_or_the_mesh_are(tmp_path):
    """Also if theory has another device, as on a TPU."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-c", TWO_DEVICES, str(tmp_path / "sweep.zarr")]
    subprocess.run(command, env={**os.environ, **flags}, check=True, timeout=600)
