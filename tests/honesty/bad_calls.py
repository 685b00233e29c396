"""Good calls of all documented functions, small enough to be made many times.

`CALLS` maps a public name to a function that makes keywords for it; in a case of `bad_input`, one
of them is bad.
"""

import functools
import gzip
import struct
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import sigprop
import sigprop.experiments as ex
import theory
from sigprop.comparison import judge

ERF = theory.activation("erf")
LAYER = theory.layer(ERF, 1.5, 0.05)
NETWORK = theory.feedforward(ERF, 1.5, 0.05, depth=2)
ROTATING = theory.layer(theory.radial("tanh"), 2.25, 0.05, components=2)
TURNING = theory.feedforward(theory.radial("tanh"), 2.25, 0.0, depth=2, components=2)
AFFINE = theory.affine(1.5, 0.05)
AT = theory.Estimate(jnp.asarray(0.5), jnp.asarray(1e-12), jnp.asarray(0, jnp.int8))
LAW = theory.WeightLaw(1.5)


class Note(theory.description.Reading):
    """The smallest reading of the fold."""


@functools.cache
def key():
    return jax.random.key(0)


@functools.cache
def signals(n=2, width=4, k=1):
    return jax.random.normal(key(), (n, width, k))


@functools.cache
def moments():
    return theory.propagate(NETWORK, signals())


@functools.cache
def step_moments():
    network = theory.recurrent(ERF, 1.5, 0.05, steps=3)
    steps = jnp.broadcast_to(signals()[:, None], (2, 3, 4, 1)).reshape(6, 4, 1)
    return theory.propagate(network, steps).value


@functools.cache
def factors():
    return theory.jacobian_factors(LAYER, 1.0)


@functools.cache
def ensembles():
    return [
        sigprop.sample_ensemble(NETWORK, signals(), width=w, replicas=2, gradients=True)
        for w in (8, 16, 32)
    ]


@functools.cache
def comparison():
    return judge(NETWORK, signals(), theory.propagate(NETWORK, signals()), ensembles())


@functools.cache
def weights():
    return np.asarray(jax.random.normal(key(), (3, 4, 4)))


@functools.cache
def overlaps():
    return sigprop.continuity(weights(), 2)


def small_sweep():
    return sigprop.Sweep(
        activation="erf", depth=1, width=4, input_width=4, replicas=2, observables=("length",)
    )


@functools.cache
def store():
    path = folder() / "sweep.zarr"
    sigprop.run_sweep(small_sweep(), path)
    return path


@functools.cache
def data():
    path = folder() / "data.zarr"
    sigprop.write_dataset(xr.Dataset({"a": ("x", [1.0, 2.0])}), path, provenance={})
    return path


@functools.cache
def folder():
    """Where files of the calls are; the process leaves it to the system."""
    return Path(tempfile.mkdtemp(prefix="sigprop-calls-"))


def free(name):
    return folder() / name


def pathless(text, name):
    path = folder() / name
    path.write_text(text)
    return path


@functools.cache
def idx():
    for split in ("train", "t10k"):
        for name, array in (
            ("images-idx3", np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)),
            ("labels-idx1", np.arange(3, dtype=np.uint8)),
        ):
            head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
            head += struct.pack(f">{array.ndim}I", *array.shape)
            path = folder() / f"{split}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
    return folder()


@functools.cache
def study():
    return ex.Study(
        architectures=(ex.Architecture("a", components=1, activation="tanh"),),
        depth=2,
        features=4,
        learning_rates=(1e-3,),
        seeds=(0,),
        epochs=1,
        train_count=4,
        batch=4,
        records=2,
    )


@functools.cache
def classifier():
    return ex.Classifier(study().architectures[0].interior(2), 4, 4, 3)


@functools.cache
def parameters():
    return classifier().draw(key())


@functools.cache
def drawn():
    return sigprop.networks.DrawnNetwork(NETWORK, key(), width=8)


@functools.cache
def moments_of_signals():
    return theory.mean_field.signal_moments(signals())


def build(weight_variance, bias_variance):
    return theory.layer(ERF, weight_variance, bias_variance)


def build_rotating(weight_variance, bias_variance):
    return theory.layer(theory.radial("tanh"), weight_variance, bias_variance, components=2)


AXES = {"weight_variance": [1.0, 2.0], "bias_variance": [0.1, 0.2]}
NET = {"network": NETWORK}
QUADRATURE = {"tolerance": 1e-10, "order": 64}
SHAPE = {"weights": "gaussian", "components": 1, "algebra": "real"}

CALLS = {
    "theory.feedforward": lambda: {
        "activation": ERF,
        "weight_variance": 1.5,
        "bias_variance": 0.1,
        "depth": 2,
        "residual": False,
        **SHAPE,
    },
    "theory.layer": lambda: {
        "activation": ERF,
        "weight_variance": 1.5,
        "bias_variance": 0.1,
        "residual": False,
        **SHAPE,
    },
    "theory.affine": lambda: {"weight_variance": 1.5, "bias_variance": 0.1, "width": 3, **SHAPE},
    "theory.repeat": lambda: {"body": LAYER, "depth": 2},
    "theory.Affine": lambda: {"weights": LAW, "bias_variance": 0.1, "width": None},
    "theory.WeightLaw": lambda: {
        "variance": 1.0,
        "family": theory.GaussianWeights(),
        "components": 1,
        "algebra": "real",
    },
    "theory.SparseWeights": lambda: {"density": 0.5},
    "theory.Pointwise": lambda: {"activation": ERF},
    "theory.Normalise": lambda: {"kind": "layer", "epsilon": 1e-5},
    "theory.Noise": lambda: {"variance": 0.1},
    "theory.Chain": lambda: {"parts": (LAYER,)},
    "theory.Residual": lambda: {"branch": LAYER},
    "theory.Repeat": lambda: {"body": theory.repeat(LAYER, 2).body, "depth": 2},
    "theory.recurrent": lambda: {
        "activation": ERF,
        "weight_variance": 1.5,
        "bias_variance": 0.1,
        "steps": 2,
        "input_variance": 1.0,
        **SHAPE,
    },
    "theory.Recurrent": lambda: {"body": LAYER, "steps": 2},
    "theory.activation": lambda: {"name": "leaky_relu", "negative_slope": 0.1},
    "theory.componentwise": lambda: {
        "fn": jnp.sin,
        "kinks": (),
        "scale": 1.0,
        "parity": None,
        "name": "mine",
    },
    "theory.radial": lambda: {"profile": jnp.tanh, "kinks": (), "scale": 1.0, "name": "mine"},
    "theory.description.interpret": lambda: {
        "part": NETWORK,
        "reading": theory.mean_field.MeanField(),
        "state": theory.mean_field.PreActivation(moments_of_signals(), moments_of_signals()),
    },
    "theory.description.along_depth": lambda: {"notes": moments_notes()},
    "theory.describe": lambda: {**NET, "latex": False},
    "theory.hidden_layer": lambda: NET,
    "theory.save_network": lambda: {**NET, "path": free("network.toml")},
    "theory.load_network": lambda: {
        "path": pathless('build = "affine"\nweight_variance = 1.0\n', "affine.toml")
    },
    "theory.to_dict": lambda: NET,
    "theory.from_dict": lambda: {"table": theory.to_dict(NETWORK), "folder": "."},
    "theory.propagate": lambda: {**NET, "inputs": signals(), "order": 64},
    "theory.mean_field.signal_moments": lambda: {"signals": signals()},
    "theory.given_moments": lambda: {
        "covariance": np.array([[1.0, 0.5], [0.5, 1.0]])[..., None, None],
        "separation": None,
    },
    **{
        f"theory.{name}": lambda: {"moments": moments().value}
        for name in ("length", "correlation", "overlap", "distance", "growth")
    },
    "theory.mean_field.participation_ratio": lambda: {"moments": moments().value},
    "theory.Observable": lambda: {"name": "mine", "symbol": "m", "of": theory.length},
    "theory.predict": lambda: {"layer": LAYER, "start": 1.0, **QUADRATURE},
    "theory.phase_diagram": lambda: {
        "build": build,
        "axes": AXES,
        "start": 1.0,
        "tolerance": 1e-10,
        "correlations": False,
        "progress": None,
    },
    "theory.fixed_points": lambda: {"layer": LAYER, **QUADRATURE},
    "theory.phases.length_cycle": lambda: {"layer": LAYER, "start": 1.0, **QUADRATURE},
    "theory.critical_line": lambda: {
        "activation": ERF,
        "lengths": [0.5, 1.0],
        "components": 1,
        **QUADRATURE,
    },
    "theory.critical_points": lambda: {
        "activation": ERF,
        "bias_variance": 0.1,
        "components": 1,
        **QUADRATURE,
    },
    "theory.phases.half_stable_points": lambda: {"activation": ERF, "components": 1, **QUADRATURE},
    "theory.mean_field.autocorrelation": lambda: {"moments": step_moments(), "steps": 3},
    "theory.mean_field.step_growth": lambda: {"moments": step_moments(), "steps": 3},
    "theory.phases.stationary_state": lambda: {
        "body": LAYER,
        "noise_variance": 0.1,
        "start": 1.0,
        **QUADRATURE,
    },
    "theory.finite_width.length_correction": lambda: {
        **NET,
        "length": 1.0,
        "order": 64,
        "tolerance": 1e-8,
    },
    "theory.symmetry": lambda: NET,
    "theory.phases.generators": lambda: {"network": TURNING},
    "theory.phases.plane_generator": lambda: {"network": TURNING},
    "theory.finite_width.onset_curvature": lambda: {"activation": ERF, "components": 1},
    "theory.finite_width.onset_law": lambda: {
        "activation": ERF,
        "weight_variance": 1.0,
        "width": 50,
        "components": 1,
        "algebra": "real",
    },
    "theory.finite_width.generic_exponent": lambda: {
        "activation": ERF,
        "weight_variance": 1.5,
        "components": 1,
        "algebra": "real",
        "order": 128,
    },
    "theory.sectors": lambda: {"layer": ROTATING, "length": AT, **QUADRATURE},
    "theory.sector_diagram": lambda: {
        "build": build_rotating,
        "axes": AXES,
        "start": 1.0,
        "tolerance": 1e-10,
        "progress": None,
    },
    "theory.spectrum.jacobian_spectrum": lambda: {
        **NET,
        "length": 1.0,
        "order": 128,
        "moments": 2,
    },
    "theory.jacobian_factors": lambda: {**NET, "length": 1.0, "order": 128},
    "theory.spectrum.spectrum_summary": lambda: {"factors": factors(), "moments": 2},
    "theory.singular_value_distribution": lambda: {
        "factors": factors(),
        "log_singular_values": [0.0],
        "tolerance": 1e-6,
    },
    "theory.singular_value_quantiles": lambda: {
        "factors": factors(),
        "fractions": [0.5],
        "tolerance": 1e-6,
    },
    "theory.spectrum.spectrum_edges": lambda: {"factors": factors(), "tolerance": 1e-6},
    "theory.spectrum.jacobian_moments": lambda: {
        "factors": factors(),
        "order": 2,
        "tolerance": 1e-8,
    },
    "theory.spectrum.residual_moments": lambda: {
        "layer": theory.layer(ERF, 1.0, residual=True),
        "length": 1.0,
        "depth": 2,
        "tolerance": 1e-8,
    },
    "theory.spectrum.lyapunov_quantiles": lambda: {
        "factors": factors(),
        "fractions": [0.5],
        "tolerance": 1e-8,
    },
    "theory.spectrum.goldstone_gains": lambda: {"network": TURNING, "inputs": signals(k=2)},
    "theory.gradients.gradient_coherence": lambda: {
        **NET,
        "inputs": signals(),
        "loss_gram": None,
        "order": 64,
    },
    "theory.gradients.linear_residual_gain": lambda: {
        "target": 2.0,
        "depth": 3,
        "time": 1.0,
        "rate": 1.0,
    },
    "theory.gradients.spike_overlap": lambda: {"strength": 1.0, "aspect": 1.0},
    "theory.gaussian.gaussian_expectation": lambda: {
        "fn": jnp.sin,
        "variance": 1.0,
        "kinks": (),
        "scale": 1.0,
        "order": 64,
    },
    "theory.gaussian.gaussian_pair_expectation": lambda: {
        "fn": jnp.multiply,
        "variance_a": 1.0,
        "variance_b": 1.0,
        "correlation": 0.5,
        "kinks": (),
        "scale": 1.0,
        "order": 64,
    },
    "sigprop.gram_inputs": lambda: {
        "gram": np.eye(2),
        "width": 8,
        "key": key(),
        "components": 1,
    },
    "sigprop.pair_gram": lambda: {"length": 1.0, "correlation": 0.5},
    "sigprop.digits_inputs": lambda: {"count": 2, "key": key(), "centre": True, "length": 1.0},
    "sigprop.idx_inputs": lambda: {
        "path": idx(),
        "count": 2,
        "key": key(),
        "split": "train",
        "centre": True,
        "length": 1.0,
    },
    "sigprop.networks.pair_inputs": lambda: {"cross": np.eye(1), "width": 8, "key": key()},
    "sigprop.networks.read_idx": lambda: {"path": idx() / "train-images-idx3-ubyte.gz"},
    "sigprop.sample_ensemble": lambda: {
        **NET,
        "inputs": signals(),
        "width": 8,
        "replicas": 2,
        "seed": 0,
        "gradients": False,
        "explicit_weights": True,
        "block": None,
        "precision": "highest",
        "progress": None,
    },
    "sigprop.sample_network": lambda: {
        **NET,
        "inputs": signals(),
        "key": key(),
        "width": 8,
        "gradients": False,
        "explicit_weights": True,
        "precision": "highest",
    },
    "sigprop.networks.DrawnNetwork": lambda: {**NET, "key": key(), "width": 8},
    "sigprop.certify": lambda: {
        "fn": drawn_turning(),
        "x": signals(1, 4, 2),
        "generators": np.array([[[0.0, -1.0], [1.0, 0.0]]]),
    },
    "sigprop.jacobians.backward_charges": lambda: {
        "drawn": drawn_turning(),
        "x": signals(1, 4, 2),
        "gradient": signals(1, 8, 2),
        "generators": np.array([[[0.0, -1.0], [1.0, 0.0]]]),
    },
    "sigprop.jacobians.sample_exponents": lambda: {
        "network": theory.feedforward(ERF, 1.5, 0.05, depth=40),
        "x": signals(1),
        "key": key(),
        "width": 8,
        "count": 2,
        "discard": None,
        "explicit_weights": True,
        "precision": "highest",
    },
    "sigprop.sample_jacobians": lambda: {
        **NET,
        "inputs": signals(1),
        "width": 8,
        "replicas": 2,
        "seed": 0,
        "precision": "highest",
        "progress": None,
    },
    "sigprop.sample_jacobian": lambda: {
        **NET,
        "inputs": signals(1),
        "key": key(),
        "width": 8,
        "precision": "highest",
        "tolerance": 1e-9,
    },
    "sigprop.jacobians.product_log_singular_values": lambda: {
        "factors": weights(),
        "tolerance": 1e-9,
    },
    "sigprop.jacobians.leading_singular_values": lambda: {
        "fn": jnp.tanh,
        "x": jnp.ones(6),
        "key": key(),
        "count": 2,
        "steps": None,
        "tolerance": 1e-6,
    },
    "sigprop.jacobians.estimate_spectrum": lambda: {
        "fn": jnp.tanh,
        "x": jnp.ones(6),
        "key": key(),
        "probes": 4,
        "steps": 4,
        "orders": 2,
        "log_grid": None,
        "bandwidth": None,
        "tolerance": 0.1,
    },
    "sigprop.probe": lambda: {
        "fn": jnp.tanh,
        "x": jnp.ones((2, 4)),
        "layers": None,
        "description": None,
        "networks": 200,
        "dense_limit": 512,
        "tolerance": None,
        "key": key(),
    },
    "sigprop.continuity": lambda: {
        "weights": weights(),
        "rank": 2,
        "tolerance": 0.01,
        "start": None,
    },
    "sigprop.alignment.neighbours": lambda: {"map_": overlaps().right},
    "sigprop.alignment.mean_alignment": lambda: {"map_": overlaps().right},
    "sigprop.alignment.layer_remarks": lambda: {"found": overlaps(), "names": None},
    "sigprop.alignment.leading_vectors": lambda: {
        "weights": weights(),
        "rank": 2,
        "tolerance": 0.01,
        "start": None,
    },
    "sigprop.alignment.cosine_null": lambda: {"dimension": 8, "level": 0.99},
    "sigprop.alignment.overlap_null": lambda: {"dimension": 8, "rank": 2, "level": 0.99},
    "sigprop.alignment.frobenius_cosines": lambda: {"matrices": weights()},
    "sigprop.alignment.gram_cosines": lambda: {"weights": weights()},
    "sigprop.alignment.spectra": lambda: {"weights": weights()},
    "sigprop.alignment.rotation_drift": lambda: {
        "before": weights(),
        "after": weights(),
        "tolerance": 0.01,
    },
    "sigprop.networks.sample_coherence": lambda: {
        **NET,
        "inputs": signals(),
        "width": 8,
        "replicas": 2,
        "seed": 0,
        "loss_gram": None,
        "explicit_weights": True,
        "progress": None,
    },
    "sigprop.networks.network_coherence": lambda: {
        **NET,
        "inputs": signals(),
        "key": key(),
        "width": 8,
        "loss_gram": None,
        "explicit_weights": True,
    },
    "sigprop.alignment.frame_drift": lambda: {
        "weights": weights(),
        "change": weights(),
        "frames": "each",
        "steps": 5,
    },
    "sigprop.alignment.rotate_weights": lambda: {
        "weights": weights(),
        "rotations": np.broadcast_to(np.eye(4), (4, 4, 4)),
    },
    "sigprop.compare": lambda: {
        **NET,
        "inputs": signals(),
        "widths": (8, 16, 32),
        "replicas": 2,
        "seed": 0,
        "observables": ("length",),
        "gradients": False,
        "explicit_weights": True,
        "progress": None,
    },
    "sigprop.comparison.judge": lambda: {
        **NET,
        "inputs": signals(),
        "expected": moments(),
        "ensembles": ensembles(),
        "observables": ("length",),
    },
    "sigprop.comparison.contributions": lambda: {
        "observable": theory.OBSERVABLES["length"],
        "sample": ensembles()[0].samples,
    },
    "sigprop.comparison.extrapolate": lambda: {
        "widths": [8, 16, 32],
        "mean": np.ones((3, 2)),
        "standard_error": np.full((3, 2), 0.1),
    },
    "sigprop.comparison.comparison_dataset": lambda: {"comparison": comparison()},
    "sigprop.read_sweep_file": lambda: {
        "path": pathless('activation = "erf"\n', "sweep.toml"),
    },
    "sigprop.run_sweep": lambda: {
        "sweep": small_sweep(),
        "path": free("run.zarr"),
        "mesh": None,
        "shard": (0, 1),
        "chunk": None,
        "workers": None,
        "progress": None,
    },
    "sigprop.sweep_status": lambda: {"path": store()},
    "sigprop.merge_sweeps": lambda: {"paths": [store()], "output": free("merged.zarr")},
    "sigprop.read_sweep": lambda: {"path": store()},
    "sigprop.summarise_sweep": lambda: {"path": store()},
    "sigprop.plan": lambda: {
        "sweep": small_sweep(),
        "observable": "length",
        "error": 0.1,
        "width": 8,
        "progress": None,
    },
    "sigprop.outcome": lambda: {"plan": planned()[0], "run": planned()[1], "path": store()},
    "sigprop.storage.provenance": lambda: {"seed": 0},
    "sigprop.write_dataset": lambda: {
        "dataset": xr.Dataset({"a": ("x", [1.0])}),
        "path": free("written.zarr"),
        "provenance": {"seed": 1},
    },
    "sigprop.read_dataset": lambda: {"path": data()},
    "sigprop.experiments.read_study": lambda: {
        "path": pathless('[[architecture]]\nname = "a"\n', "study.toml"),
        "depth": 3,
    },
    "sigprop.experiments.train": lambda: {
        "study": study(),
        "folder": free("study"),
        "members_at_once": None,
        "checkpoint_seconds": 10.0,
        "progress": None,
    },
    "sigprop.experiments.study_dataset": lambda: {"study": study(), "folder": free("study")},
    "sigprop.experiments.read_checkpoint": lambda: {"path": free("none")},
    "sigprop.experiments.draw_parameters": lambda: {
        **NET,
        "key": key(),
        "fan_in": 4,
        "width": 8,
        "components": 1,
        "dtype": jnp.float32,
    },
    "sigprop.experiments.apply_parameters": lambda: {
        **NET,
        "parameters": ex.draw_parameters(NETWORK, key(), fan_in=4, width=8, components=1),
        "x": signals().astype(jnp.float32),
        "precision": "highest",
    },
    "sigprop.experiments.diagnose": lambda: {
        "classifier": classifier(),
        "parameters": parameters(),
        "x": jnp.ones((2, 4), jnp.float32),
        "labels": jnp.array([0, 1]),
        "generators": ex.rotations(1),
    },
    "sigprop.experiments.load_images": lambda: {"source": "digits", "train_count": 8},
    "sigprop.experiments.permuted": lambda: {"images": ex.load_images("digits", 8)},
    "sigprop.experiments.copy_task": lambda: {"delay": 2, "train_count": 4, "test_count": 4},
    "sigprop.experiments.to_nnx": lambda: {"model": classifier(), "parameters": parameters()},
    "sigprop.experiments.python_sources": lambda: {"train_count": 4, "window": 64},
    "sigprop.experiments.cross_entropy": lambda: {
        "logits": jnp.ones((2, 3)),
        "labels": jnp.array([0, 1]),
    },
    "sigprop.experiments.parameter_count": lambda: {"parameters": parameters()},
    "sigprop.experiments.rotations": lambda: {"components": 2},
    "sigprop.experiments.without_zero_biases": lambda: NET,
}


DEAR = {
    "sigprop.comparison.judge",
    "sigprop.comparison.contributions",
    "sigprop.comparison.comparison_dataset",
    "sigprop.sweep_status",
    "sigprop.merge_sweeps",
    "sigprop.read_sweep",
    "sigprop.summarise_sweep",
    "sigprop.outcome",
    "theory.mean_field.autocorrelation",
    "theory.mean_field.step_growth",
    "theory.description.interpret",
    "theory.description.along_depth",
    *(f"theory.{name}" for name in ("length", "correlation", "overlap", "distance", "growth")),
    "theory.mean_field.participation_ratio",
    "sigprop.alignment.neighbours",
    "sigprop.alignment.mean_alignment",
    "sigprop.alignment.layer_remarks",
    "sigprop.read_dataset",
    "sigprop.experiments.apply_parameters",
    "sigprop.experiments.diagnose",
    "sigprop.experiments.permuted",
}
"""Functions whose arguments take seconds."""
FREE = {("theory.description.interpret", "state")}
"""Parameters that may be anything: a state is what the reading takes."""


@functools.cache
def drawn_turning():
    return sigprop.networks.DrawnNetwork(TURNING, key(), width=8)


@functools.cache
def moments_notes():
    state = theory.mean_field.PreActivation(moments_of_signals(), moments_of_signals())
    return theory.description.interpret(NETWORK, theory.mean_field.MeanField(), state)[1]


@functools.cache
def planned():
    made = sigprop.plan(small_sweep(), "length", 0.5, width=8)
    return made, sigprop.run_sweep(made.sweep, free("planned.zarr"))
