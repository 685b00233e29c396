"""The effect of a symmetry on depth, predicted and measured: the data of `sigprop goldstone`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

import theory
from sigprop.jacobians import certify, sample_exponents
from sigprop.networks import (
    DrawnNetwork,
    default_block,
    draws_matrices,
    in_blocks,
    pair_inputs,
    sample_ensemble,
)
from theory import Part
from theory.description import AlgebraName, Radial
from theory.numerics import Progress, Report, check_count, compiled, cores, counter, plain_options

ANGLE = 0.8
"""Angle in radians between the two inputs of a pair."""
OVERLAP = 0.9
"""Correlation, before the rotation, of the pair that no rotation relates."""
PAIRS = ("related", "generic")
_SAMPLED = 9
"""Number of weight variances at which networks are drawn."""
_DIRECTIONS = 16
"""Number of exponents."""
CERTIFIED = 1024
"""Most units of the certified network, whose weights are drawn."""
NARROW, LONG = 32, 2000
"""Units and layers of the network whose exponents are measured."""


class Rotation(NamedTuple):
    """A cross-covariance of two inputs in the plane that a generator rotates, with errors."""

    size: np.ndarray
    size_error: np.ndarray
    angle: np.ndarray
    """Radians."""
    angle_error: np.ndarray


def rotation_of(cross: Float[Any, "*batch k k"], generator: Float[Any, "k k"]) -> np.ndarray:
    """Sine and cosine of the relative rotation, times the overlap; on a last axis of two.

    They are tr(A C)/tr P and tr(P C)/tr P, P = −A², with A a plane generator. C = E u vᵀ with
    v = exp(θA) u has the angle θ.
    """
    a = np.asarray(generator)
    plane = -a @ a
    both = np.stack([a.T, plane.T])
    return np.einsum("...ij,pij->...p", np.asarray(cross, float), both) / np.trace(plane)


def _polar(mean: np.ndarray, spread: Callable[[np.ndarray], np.ndarray]) -> Rotation:
    """Size and angle of [..., 2]; `spread` gives the error of a linear combination of the two."""
    size = np.linalg.norm(mean, axis=-1)
    unit = mean / np.where(size > 0, size, 1)[..., None]
    across = np.stack([unit[..., 1], -unit[..., 0]], axis=-1)
    angle = np.arctan2(mean[..., 0], mean[..., 1])
    return Rotation(size, spread(unit), angle, spread(across) / np.where(size > 0, size, np.inf))


def measured_rotation(cross: Float[Any, "networks *layers k k"], generator: Any) -> Rotation:
    """The rotation of the mean over networks, with standard errors (to first order)."""
    each = rotation_of(cross, generator)
    centred = each - each.mean(axis=0)

    def spread(direction):
        along = np.sum(centred * direction, axis=-1)
        return np.sqrt(np.sum(along**2, axis=0) / (len(each) - 1) / len(each))

    return _polar(each.mean(axis=0), spread)


def predicted_rotation(cross: Any, error: Any, generator: Any) -> Rotation:
    """The rotation from theoretical moments, with bounds from theirs.

    Every entry of `error` bounds the norm of the error of its matrix, and A/|A| and P/|P| are
    orthonormal.
    """
    a = np.asarray(generator)
    bound = np.max(np.asarray(error), axis=(-2, -1)) / np.linalg.norm(a)
    return _polar(rotation_of(cross, generator), lambda unit: bound)


def rotation_scale(length: Any, correlation: Any, bias_variance: float) -> float:
    """The depth scale over which the relative rotation of two inputs at correlation c* decays.

    It is −1/log(1 − σ_b²/(q* c*)): infinite without bias, and ξ_G if c* = 1.
    """
    if bias_variance == 0:
        return float(np.inf)
    kept = 1 - bias_variance / (float(length) * float(correlation))
    return float(np.inf if kept >= 1 else -1 / np.log(kept) if kept > 0 else 0.0)


def goldstone_study(
    activation: Radial,
    weight_variance: float,
    bias_variance: float = 0.0,
    *,
    components: int,
    algebra: AlgebraName = "real",
    depth: int,
    width: int,
    replicas: int,
    seed: int = 0,
    dtype: Any = "float32",
    weight_variances: Any = None,
    explicit_weights: bool | None = False,
    progress: Report | None = None,
) -> xr.Dataset:
    """Order parameter, multipliers, two pairs of inputs through depth, and one certificate.

    Parameters
    ----------
    activation, weight_variance, bias_variance, components, algebra
        The description, as in `theory.feedforward`; its symmetry must be continuous.
    depth, width
        Layers after the first, at least 20, and units per layer.
    replicas
        Networks per point and pair, at least 2.
    seed
        Decides every draw.
    dtype
        Precision of the simulation.
    weight_variances
        Where to evaluate theory; nine of them are simulated. By default from 0.25 to 1.5 times
        `weight_variance`, and at least to 2.
    explicit_weights
        As in `sample_ensemble`; by default none are drawn. The certificate needs them, and
        belongs to a network of at most 1024 units.
    progress
        As in `sample_ensemble`; counts draws, of networks of every variance and pair.

    Returns
    -------
    xarray.Dataset
        `order_parameter`, `length`, `goldstone`, `trace`, `symmetric_traceless` over
        `weight_variance` (the given one among them), each with error and status;
        `sampled_order_parameter` with its standard error, at layer `depth`.
        `overlap` and `rotation` over `pair` and `layer`: size and angle (radians) of the
        cross-covariance of two inputs over the length; theory with its error bound, mean and
        standard error over networks. `related` inputs are rotations of each other; `generic`
        ones also have correlation 0.9. NaN if a network has lost digits (`Sample.status`).
        The certificate of one network per `generator`; and per `direction` the exponents of
        another one, of 32 units and 2000 layers in float64, since depth and not width separates
        exponents.

    Convention
    ----------
    Means over networks of one finite width: they differ from theory by O(1/width) in addition to
    their standard error.

    Raises
    ------
    ValueError
        If an argument is out of range. The message names the argument and its allowed range.
    """
    check_count("depth", depth, 20)
    check_count("width", width)
    check_count("replicas", replicas, 2)
    how: dict[str, Any] = {"components": components, "algebra": algebra}
    build = lambda weight_variance, bias_variance=bias_variance: theory.feedforward(
        activation, weight_variance, bias_variance, depth=depth, **how
    )
    network = build(weight_variance)
    generator = theory.phases.plane_generator(network)
    if weight_variances is None:
        weight_variances = np.linspace(0.25, max(2.0, 1.5 * weight_variance), 65)
    weight_variances = np.union1d(np.asarray(weight_variances, float), weight_variance)
    layer = jax.tree_util.Partial(theory.layer, activation, bias_variance=bias_variance, **how)
    key = jax.random.key(seed)
    start = max(4 * components, 16)
    rotation = _rotation(generator, ANGLE)
    x = pair_inputs(rotation.T, start, key=jax.random.fold_in(key, 0))[:1].astype(dtype)
    narrow = theory.feedforward(activation, weight_variance, bias_variance, depth=LONG, **how)

    at = np.unique(np.linspace(0, len(weight_variances) - 1, _SAMPLED).round().astype(int))
    total = replicas * (len(at) + len(PAIRS))
    done = [0]
    count = counter(progress, "networks", total)
    count(0)

    def advance(one: Progress) -> None:
        count(done[0] + one.done)

    def finished() -> None:
        done[0] += replicas

    # Independent parts are compiled and run side by side.
    with ThreadPoolExecutor(max(2, cores())) as pool:
        diagram = pool.submit(theory.sector_diagram, layer, {"weight_variance": weight_variances})
        single = [
            pool.submit(_certified, network, x, key, min(width, CERTIFIED)),
            pool.submit(_followed, narrow, components, key),
        ]
        means = []
        size = default_block(replicas, 16 * width * components**2 * depth)
        explicit = draws_matrices(explicit_weights, width, components)
        profiles = compiled(_profile_means, plain_options)
        for variance in weight_variances[at]:
            given = (build(variance), activation, x, jax.random.fold_in(key, 1), width, explicit)
            block = lambda rows, given=given: profiles(rows, *given)
            means.append(np.asarray(in_blocks(block, replicas, size, advance), float))
            finished()
        series: dict[str, list[np.ndarray]] = {}
        last = (np.nan, np.nan)
        for overlap in (1.0, OVERLAP):
            both = pair_inputs(overlap * rotation.T, start, key=jax.random.fold_in(key, 2))
            found, last = _pair(
                network, both, generator, width, replicas, seed, dtype, explicit_weights, advance
            )
            for name, values in found.items():
                series.setdefault(name, []).append(values)
            finished()
        certified, followed = (task.result() for task in single)
        dataset = diagram.result().assign(certified).assign(followed).assign_attrs(certified.attrs)

    sampled = np.stack(means)
    error = sampled.std(axis=1, ddof=1) / np.sqrt(replicas)
    dataset = dataset.assign_coords(sampled_weight_variance=weight_variances[at])
    dataset["sampled_order_parameter"] = ("sampled_weight_variance", sampled.mean(axis=1))
    dataset["sampled_order_parameter_standard_error"] = ("sampled_weight_variance", error)
    dataset = dataset.assign_coords(pair=list(PAIRS), layer=np.arange(depth + 1))
    for name, values in series.items():
        dataset[name] = (("pair", "layer"), np.stack(values))
    dataset["rotation_scale"] = ((), rotation_scale(*last, bias_variance))
    return dataset


def _rotation(generator: np.ndarray, angle: float) -> np.ndarray:
    unit = np.eye(len(generator))
    return unit + np.sin(angle) * generator + (1 - np.cos(angle)) * generator @ generator


def _profile_means(
    rows: Array,
    network: Part,
    activation: Radial,
    x: Array,
    key: Array,
    width: int,
    explicit: bool,
) -> Array:
    """E g(|z_L|) over the units of each network."""

    def one(row):
        drawn = DrawnNetwork(network, jax.random.fold_in(key, row), width, explicit)
        return jnp.mean(activation.profile(jnp.linalg.norm(drawn(x), axis=-1)))

    return jax.lax.map(one, rows)


def _pair(network, both, generator, width, replicas, seed, dtype, explicit, progress):
    """Two inputs through depth: overlap and rotation, in theory and networks; then q and c."""
    expected = theory.propagate(network, both)
    moments = sample_ensemble(
        network,
        both.astype(dtype),
        width=width,
        replicas=replicas,
        seed=seed,
        explicit_weights=explicit,
        progress=progress,
    ).samples.known.moments
    cross = lambda m: np.asarray(m.covariance)[..., 0, 1, :, :]
    exact = predicted_rotation(cross(expected.value), cross(expected.error), generator)
    drawn = measured_rotation(cross(moments), generator)
    q = np.asarray(theory.length(expected.value)).mean(axis=-1)
    q = np.where(q > 0, q, np.inf)
    found = {
        "overlap_theory": exact.size / q,
        "overlap_theory_error": exact.size_error / q,
        "overlap_mean": drawn.size / q,
        "overlap_standard_error": drawn.size_error / q,
        "rotation_theory": exact.angle,
        "rotation_theory_error": exact.angle_error,
        "rotation_mean": drawn.angle,
        "rotation_standard_error": drawn.angle_error,
    }
    return found, (q[-1], exact.size[-1] / q[-1])


def _certified(network: Part, x: Array, key: Array, width: int) -> xr.Dataset:
    drawn = DrawnNetwork(network, jax.random.fold_in(key, 3), width)
    found = certify(drawn, x, theory.phases.generators(network))
    names = ("residual", "claim", "holds", "gain", "expected_gain")
    values = {f"certificate_{n}": ("generator", np.asarray(getattr(found, n))) for n in names}
    return xr.Dataset(values, attrs={"broken_generators": int(found.broken)})


def _followed(network: Part, components: int, key: Array) -> xr.Dataset:
    x = jax.random.normal(jax.random.fold_in(key, 4), (1, NARROW, components))
    count = min(_DIRECTIONS, x.size - len(theory.phases.generators(network)))
    found = sample_exponents(network, x, key=jax.random.fold_in(key, 5), width=NARROW, count=count)
    labels = {"exponent": found.values, "exponent_standard_error": found.standard_error}
    labels["exponent_alignment"] = found.alignment
    return xr.Dataset({name: ("direction", np.asarray(x)) for name, x in labels.items()})
