"""Signal propagation in an existing network."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sigprop.jacobians import (
    SpectrumEstimate,
    estimate_spectrum,
    leading_singular_values,
    spectrum_of_product,
)
from sigprop.networks import check_key, sample_ensemble, singular_values
from sigprop.probes._layers import Anatomy, dissect
from theory import Part, Status, correlation, given_moments, length, propagate
from theory.description import check_part, components
from theory.mean_field import gram_matrix
from theory.numerics import as_real, check_count, check_positive, compiled

_SAFETY = 4.0
"""Ratio of the claimed rounding error of a dense Jacobian to its change between differentiation
modes, forward and reverse."""
_LEADING = 16


class LayerSignals(eqx.Module):
    """The signals of n inputs in every layer; the first entry is the input itself."""

    names: tuple[str, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    """Outputs of the layer."""
    length: Float[Array, "layers n"]
    """Mean square of the outputs."""
    correlation: Float[Array, "layers n n"]
    """Correlation of two inputs; NaN if one has length zero."""
    zeros: Float[Array, "layers n"]
    """Fraction of the outputs that are exactly zero; at 1 all later layers are dead."""
    log_gradient: Float[Array, "layers n"] | None
    """log |∂L/∂h_l|² minus its value at the output, for a random linear loss L; −inf if the
    gradient is exactly zero. None if layers are not known as functions."""


class JacobianReport(eqx.Module):
    """Singular values of the input-output Jacobian at each of n inputs."""

    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    method: str = eqx.field(static=True)
    """"product" (of the layers, every value to full relative accuracy), "dense" (SVD of the whole
    matrix, values below a floor not resolved), or "matrix-free" (leading values only)."""
    log_singular_values: Float[Array, "n values"]
    """Natural logarithms, descending; −inf for those counted in `zeros`, NaN for those counted in
    `unresolved` or if `status` is INVALID."""
    error: Float[Array, "n values"]
    """Error of each: of the derivative as the function computes it."""
    zeros: Int[Array, " n"]
    """Number of zeros: dead units, or layers without full rank."""
    unresolved: Int[Array, " n"]
    """Number of values below the rounding error of the largest."""
    status: Int[Array, " n"]
    """`Status`: INVALID if the function or its derivative is NaN or infinite, INACCURATE if an
    error is above the tolerance or a value is not resolved."""
    estimate: SpectrumEstimate | None
    """Averages over all values (leading axis n), for the method "matrix-free"."""


class DescriptionCheck(eqx.Module):
    """One network compared with a description of the law that it may have been drawn from.

    Mean-field theory predicts averages over networks of infinite width. One network differs from
    them by O(1/√width), in the same way for all of its inputs. So inputs are not independent
    samples, and standard errors come from other networks drawn from the description.
    """

    layers: tuple[int, ...] = eqx.field(static=True)
    """The entries of `LayerSignals` to which the predictions refer."""
    length: Float[Array, "boundaries n"]
    """Predicted, at infinite width."""
    length_error: Float[Array, "boundaries n"]
    correlation: Float[Array, "boundaries n n"]
    measured_length: Float[Array, "boundaries n"]
    measured_correlation: Float[Array, "boundaries n n"]
    length_z: Float[Array, "boundaries n"] | None
    """By how many standard deviations, over `networks` drawn networks of this width, the measured
    length differs from their mean. None if none could be drawn; NaN in layers where one of them
    has lost digits (`Sample.status`), which do not enter the p-value."""
    correlation_z: Float[Array, "boundaries n n"] | None
    p_value: Float[Array, ""] | None
    """p-value of the largest |z|: the fraction of networks, including this one, where it is as
    large. Exact if this one was drawn from the description, whatever the dependences."""
    networks: int = eqx.field(static=True)


class Probe(eqx.Module):
    """The measurements of `probe`."""

    length: Float[Array, " n"]
    """Mean square of the outputs."""
    correlation: Float[Array, "n n"]
    """Correlation of the outputs; NaN if one has length zero."""
    finite: Int[Array, " n"]
    """1 if all outputs are finite, 0 if one is not."""
    layers: LayerSignals | None
    jacobian: JacobianReport
    check: DescriptionCheck | None
    notes: tuple[str, ...] = eqx.field(static=True)
    """What could not be done, and why."""


def probe(
    fn: Any,
    x: Float[Array, "n *shape"],
    *,
    layers: Sequence[Any] | None = None,
    description: Part | None = None,
    networks: int = 200,
    dense_limit: int = 512,
    tolerance: float | None = None,
    key: Key[Array, ""] | None = None,
) -> Probe:
    """Measure how signals, gradients and tangents pass through any network.

    Parameters
    ----------
    fn
        A function or an equinox module, of one input; or a Flax nnx module, or a pair (linen
        module, variables), of a batch.
    x
        The inputs, with a leading axis over them; their dtype is that of the measurement.
    layers
        Functions of one input whose composition is `fn`. By default those of `eqx.nn.MLP`, or of
        a `layers` attribute (`eqx.nn.Sequential`, `nnx.Sequential`, `linen.Sequential`), if they
        compose to `fn`; otherwise the outputs of the submodules of a linen module, without
        gradients.
    description
        The law that the network may have been drawn from: `theory.feedforward`, ….
    networks
        Number of networks to draw from it for the comparison; 0 for none.
    dense_limit
        If a layer has more inputs or outputs than this, the Jacobian is matrix-free.
    tolerance
        Largest error of log singular values that is not INACCURATE; 1e-9 by default, 1e-3 in
        float32.
    key
        Decides the loss and the probes.

    Accuracy
    --------
    Lengths, correlations and gradients have the rounding errors of the function itself. For errors
    of singular values see `product_log_singular_values` and `leading_singular_values`; for the
    dense SVD the error is four times the change from forward- to reverse-mode differentiation,
    plus the rounding of the SVD.

    Raises
    ------
    TypeError, ValueError
        If `fn` is not a function, `x` contains no floating-point numbers, or `layers` compose to
        another function; if the number of boundaries of the description is neither that of the
        layers nor that of layers with parameters.
    """
    x = jnp.asarray(as_real("x", x))
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 2 or len(x) == 0:
        raise ValueError(
            "`x`: must contain floating-point numbers with a leading axis over inputs; got "
            f"{x.dtype} of shape {x.shape}"
        )
    check_count("networks", networks, 0)
    check_count("dense_limit", dense_limit)
    if tolerance is None:
        tolerance = 1e-9 if x.dtype == jnp.float64 else 1e-3
    check_positive("tolerance", tolerance)
    if description is not None:
        check_part("description", description)
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    anatomy = dissect(fn, x, layers)
    notes = [] if anatomy.note is None else [anatomy.note]
    out = _outputs(anatomy.call, x)
    signals = _layer_signals(anatomy, x, jax.random.fold_in(key, 0))
    jacobian = _jacobian(anatomy, x, dense_limit, tolerance, jax.random.fold_in(key, 1))
    check = None
    if description is not None:
        check, why = _check_description(description, anatomy, signals, x, out, networks)
        notes += why
    finite = jnp.all(jnp.isfinite(out.reshape(len(x), -1)), axis=1)
    moments = _moments(out)
    for count, what in (
        (jnp.sum(~finite), "outputs that are NaN or infinite"),
        (jnp.sum(length(moments) == 0), "outputs that are all zero"),
        (jnp.sum(jacobian.status == Status.INVALID), "a derivative that is NaN or infinite"),
    ):
        if count > 0:
            notes.append(f"{int(count)} of {len(x)} inputs have {what}")
    return Probe(
        length(moments),
        correlation(moments),
        finite.astype(jnp.int8),
        signals,
        jacobian,
        check,
        tuple(notes),
    )


_predicted = compiled(propagate)


@compiled
def _outputs(call: Callable, x: Array) -> Array:
    return jax.vmap(call)(x)


def _moments(out: Float[Array, "n *shape"]) -> Any:
    return given_moments(gram_matrix(out.astype(float).reshape(len(out), -1, 1)))


def _layer_signals(anatomy: Anatomy, x: Array, key: Array) -> LayerSignals | None:
    if anatomy.layers is not None:
        names = ("input", *(layer.name for layer in anatomy.layers))
        outs, log_gradient = _passed([layer.call for layer in anatomy.layers], x, key)
    elif anatomy.captured is not None:
        names = ("input", *(name for name, _ in anatomy.captured))
        outs, log_gradient = [x, *(out for _, out in anatomy.captured)], None
    else:
        return None
    moments = [_moments(out) for out in outs]
    return LayerSignals(
        names,
        tuple(out[0].size for out in outs),
        jnp.stack([length(m) for m in moments]),
        jnp.stack([correlation(m) for m in moments]),
        jnp.stack([jnp.mean(out.reshape(len(x), -1) == 0, axis=1) for out in outs]),
        log_gradient,
    )


@compiled
def _passed(layers: list[Callable], x: Array, key: Array) -> tuple[list[Array], Array]:
    """Signals after every layer, and the logs of squared gradients there, relative."""

    def forth(x: Array):
        outs, backs = [x], []
        for layer in layers:
            out, back = jax.vjp(layer, outs[-1])
            outs.append(out)
            backs.append(back)
        # A layer may change the dtype; the gradient follows, and its size is summed in one dtype.
        gradient = jax.random.normal(key, outs[-1].shape, outs[-1].dtype)
        gradient = gradient / jnp.linalg.norm(gradient)
        log = jnp.zeros((), float)
        logs = [log]
        for back in reversed(backs):
            (gradient,) = back(gradient)
            size = jnp.max(jnp.abs(gradient))
            gradient = gradient / jnp.where(size > 0, size, jnp.ones_like(size))
            norm = jnp.linalg.norm(gradient)
            log = log + 2 * (jnp.log(size) + jnp.log(norm)).astype(float)
            gradient = gradient / jnp.where(norm > 0, norm, jnp.ones_like(norm))
            logs.append(log)
        return outs, jnp.stack(logs[::-1])

    outs, logs = jax.vmap(forth)(x)
    return outs, logs.T


def _jacobian(
    anatomy: Anatomy, x: Array, limit: int, tolerance: float, key: Array
) -> JacobianReport:
    columns = x[0].size
    rows = eqx.filter_eval_shape(anatomy.call, x[0]).size
    calls = None if anatomy.layers is None else [layer.call for layer in anatomy.layers]
    largest = max(rows, columns)
    if calls is not None:
        inner: Any = x[0]
        for call in calls:
            inner = eqx.filter_eval_shape(call, inner)
            largest = max(largest, inner.size)
    if max(rows, columns) > limit or (calls is not None and largest > limit):
        fn = anatomy.call if calls is None else calls
        return _matrix_free(fn, x, (rows, columns), tolerance, key)
    if calls is None:
        values, error, zeros, unresolved, status = _dense(anatomy.call, x, tolerance)
        return JacobianReport(
            rows, columns, "dense", values, error, zeros, unresolved, status, None
        )
    values, error, status = _product(calls, x, largest, tolerance)
    values = values[:, : min(rows, columns)]
    zeros = jnp.sum(jnp.isneginf(values), axis=1)
    error = jnp.where(jnp.isfinite(values), error[:, None], jnp.nan)
    return JacobianReport(
        rows, columns, "product", values, error, zeros, jnp.zeros_like(zeros), status, None
    )


def _product(calls: list[Callable], x: Array, size: int, tolerance: float):
    """The product of the Jacobians of the layers, padded by zeros to square matrices."""
    found = []
    for one in x:
        factors, good = _factors(calls, one, size)
        spectrum = spectrum_of_product(factors, tolerance, believed=True)
        values = jnp.where(good, spectrum.log_singular_values, jnp.nan)
        status = jnp.where(good, spectrum.status, jnp.int8(Status.INVALID))
        found.append((values, jnp.where(good, spectrum.error, jnp.nan), status))
    return tuple(jnp.stack(part) for part in zip(*found, strict=True))


@compiled
def _factors(calls: list[Callable], value: Array, size: int) -> tuple[Array, Array]:
    """The Jacobian of every layer at one input, and whether the output is finite."""
    factors = []
    for call in calls:
        flat = lambda v, call=call, shape=value.shape: call(v.reshape(shape)).reshape(-1)
        factor = jax.jacfwd(flat)(value.reshape(-1))
        rows, columns = factor.shape
        factor = jnp.pad(factor, ((0, size - rows), (0, size - columns)))
        factors.append(factor.astype(float))
        value = call(value)
    return jnp.stack(factors), jnp.all(jnp.isfinite(value))


@compiled
def _dense(call: Callable, x: Array, tolerance: float):
    def one(x: Array):
        flat = lambda v: call(v.reshape(x.shape)).reshape(-1)
        forward = jax.jacfwd(flat)(x.reshape(-1)).astype(float)
        backward = jax.jacrev(flat)(x.reshape(-1)).astype(float)
        good = jnp.all(jnp.isfinite(forward)) & jnp.all(jnp.isfinite(flat(x.reshape(-1))))
        largest = jnp.max(jnp.abs(forward))
        scale = jnp.where(good & (largest > 0), largest, 1.0)
        matrix = jnp.where(good, forward / scale, 0.0)
        s = singular_values(matrix)
        rank = jnp.minimum(
            jnp.sum(jnp.any(matrix != 0, axis=0)), jnp.sum(jnp.any(matrix != 0, axis=1))
        )
        rounding = _SAFETY * jnp.linalg.norm(forward - backward) / scale
        floor = rounding + 2 * max(matrix.shape) * float(jnp.finfo(float).eps) * s[0]
        nonzero = jnp.arange(len(s)) < rank
        resolved = nonzero & (s > floor)
        safe = jnp.where(resolved, s, 2 * floor + 1)
        values = jnp.where(resolved, jnp.log(safe) + jnp.log(scale), jnp.nan)
        error = jnp.where(resolved, -jnp.log1p(-floor / safe), jnp.nan)
        values = jnp.where(nonzero, values, -jnp.inf)
        unresolved = jnp.sum(nonzero & ~resolved)
        fine = (unresolved == 0) & (jnp.max(jnp.where(resolved, error, 0.0)) <= tolerance)
        status = jnp.where(fine, Status.OK, Status.INACCURATE)
        status = jnp.where(good, status, Status.INVALID).astype(jnp.int8)
        values = jnp.where(good, values, jnp.nan)
        zeros = jnp.where(good, len(s) - rank, 0)
        return values, error, zeros, jnp.where(good, unresolved, 0), status

    return jax.lax.map(one, x)


@compiled
def _matrix_free(
    fn: Any, x: Array, shape: tuple[int, int], tolerance: float, key: Array
) -> JacobianReport:
    count = min(_LEADING, *shape)

    def one(x: Array):
        leading = leading_singular_values(
            fn, x, key=jax.random.fold_in(key, 0), count=count, tolerance=tolerance
        )
        return leading, estimate_spectrum(fn, x, key=jax.random.fold_in(key, 1))

    leading, estimate = jax.lax.map(one, x)
    states = leading.status
    invalid = jnp.any(states == Status.INVALID, axis=1)
    zeros = jnp.sum(states == Status.INFINITE, axis=1)
    unresolved = jnp.sum(states == Status.ABSENT, axis=1)
    rough = (states != Status.OK) & (states != Status.INFINITE)
    status = jnp.where(jnp.any(rough, axis=1), Status.INACCURATE, Status.OK)
    status = jnp.where(invalid, Status.INVALID, status).astype(jnp.int8)
    values, error = leading.log_singular_values, leading.error
    return JacobianReport(*shape, "matrix-free", values, error, zeros, unresolved, status, estimate)


def _check_description(
    description: Part,
    anatomy: Anatomy,
    signals: LayerSignals | None,
    x: Array,
    out: Array,
    networks: int,
) -> tuple[DescriptionCheck, list[str]]:
    k = components(description)
    inputs = x.reshape(len(x), -1, k)
    exact = jnp.asarray(inputs, float)
    predicted = _predicted(description, exact)
    boundaries = predicted.value.log_gain.shape[0]
    at = _boundaries(anatomy, signals, boundaries)
    if signals is None or at is None:
        moments, last = _moments(out), slice(-1, None)
        own_length, own_correlation = length(moments)[None], correlation(moments)[None]
        sizes = tuple[int, ...]()
        at, notes = (), ["description: compared with the outputs only"]
    else:
        own_length = jnp.stack([signals.length[i] for i in at])
        own_correlation = jnp.stack([signals.correlation[i] for i in at])
        sizes, last, notes = tuple(signals.sizes[i] for i in at), slice(None), []
    # Lengths are per real component in both.
    at_last = jax.tree.map(lambda leaf: leaf[last], predicted)
    found = DescriptionCheck(
        at,
        length(at_last.value),
        length(at_last.error),
        correlation(at_last.value),
        own_length,
        own_correlation,
        None,
        None,
        None,
        0,
    )
    if networks == 0:
        return found, notes
    reason = _cannot_draw(sizes, inputs)
    if reason is not None:
        return found, [*notes, f"description: no networks were drawn, {reason}"]
    width = sizes[:1][0] // k
    drawn = sample_ensemble(description, inputs, width=width, replicas=networks)
    moments = drawn.samples.moments
    length_z = _standardised(own_length, length(moments))
    correlation_z = _standardised(own_correlation, correlation(moments))
    # Layers in which a network has lost digits do not count.
    low = jnp.any(drawn.samples.status == Status.INACCURATE, axis=0)
    length_z = jnp.where(low[None, :, None], jnp.nan, length_z)
    correlation_z = jnp.where(low[None, :, None, None], jnp.nan, correlation_z)
    each = (length_z[:, ~low], correlation_z[:, ~low])
    both = jnp.concatenate([z.reshape(networks + 1, -1) for z in each], axis=1)
    largest = jnp.max(jnp.abs(both), axis=1, initial=0.0)
    p_value = jnp.mean(largest >= largest[0])
    p_value = jnp.where(jnp.isfinite(largest[0]), p_value, jnp.nan)
    return DescriptionCheck(
        at,
        found.length,
        found.length_error,
        found.correlation,
        own_length,
        own_correlation,
        length_z[0],
        correlation_z[0],
        p_value,
        networks,
    ), notes


def _standardised(own: Array, others: Array) -> Array:
    """z of every network, this one first, by mean and deviation over all of them.

    All are treated alike, so ranks are exact.
    """
    all_ = jnp.concatenate([own[None].astype(others.dtype), others])
    centred = all_ - jnp.mean(all_, axis=0, keepdims=True)
    deviation = jnp.std(all_, axis=0, ddof=1, keepdims=True)
    # Numbers that are equal up to rounding, such as the correlation with itself, get z = 0.
    noise = 1e3 * float(jnp.finfo(all_.dtype).eps) * jnp.max(jnp.abs(all_), axis=0, keepdims=True)
    return jnp.where(deviation > noise, centred / jnp.where(deviation > 0, deviation, 1), 0.0)


def _boundaries(
    anatomy: Anatomy, signals: LayerSignals | None, wanted: int
) -> tuple[int, ...] | None:
    """Which layers are the boundaries of a description: all of them, or those with parameters."""
    if signals is None:
        return None
    if anatomy.layers is None:
        everything = tuple(range(1, len(signals.names)))
        choices = [everything]
    else:
        everything = tuple(range(1, len(anatomy.layers) + 1))
        own = tuple(i for i in everything if anatomy.layers[i - 1].parametric)
        choices = [everything, own]
    for choice in choices:
        if len(choice) == wanted:
            return choice
    counts = " or ".join(dict.fromkeys(str(len(choice)) for choice in choices))
    raise ValueError(
        f"`description`: must have as many affine layers and sums as the network has layers, "
        f"{counts}; got {wanted}"
    )


def _cannot_draw(sizes: tuple[int, ...], inputs: Array) -> str | None:
    n, width_in, k = inputs.shape
    if not sizes:
        return "layers are not known"
    if len(set(sizes[:-1]) or set(sizes)) != 1:
        return "the hidden layers have different widths"
    if width_in <= n * k:
        return "there are as many inputs as entries per input"
    return None
