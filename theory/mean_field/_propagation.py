"""The mean-field reading: second moments of n inputs, propagated through a description."""

from collections import Counter
from typing import Any, assert_never

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Real

from theory.description import (
    Affine,
    Chain,
    Componentwise,
    Noise,
    Normalise,
    Part,
    Pointwise,
    Radial,
    Reading,
    Repeat,
    Residual,
    along_depth,
    check_part,
    check_read_in,
    gain,
    interpret,
    is_linear,
    is_simple,
    on_numpy,
    starts_nonlinear,
    time_steps,
)
from theory.gaussian import pair_moments, single_moments, slope_rate
from theory.mean_field._moments import (
    Moments,
    PostActivation,
    PreActivation,
    check_finite,
    check_signals,
    given_moments,
    per_component,
    signal_moments,
)
from theory.mean_field._normalised import normalised_moments
from theory.mean_field._radial_field import radial_field
from theory.mean_field._two_times import first_input_alone, states_of_all_times
from theory.numerics import (
    Array,
    as_signals,
    cast,
    check_device,
    check_order,
    compiled,
    device_of,
    each,
    inside_another,
    light_options,
    put,
    structure,
    widest,
    xp,
)


class MeanField(Reading[Any]):
    """Infinite-width moments; each `Affine` and each sum notes its `PreActivation`.

    Notation: q length, x = 1 − c, s separation, σ_w² and σ_b² the variances.
    """

    order: int = eqx.field(static=True, default=64)
    """Nodes per panel of the Gaussian quadrature."""
    equal_lengths: bool = eqx.field(static=True, default=False)
    """All inputs are known to have equal length (as at a fixed point): half the work."""
    errors: bool = eqx.field(static=True, default=True)
    """Propagate error estimates. Without them errors stay zero, at a third of the cost."""
    in_branch: bool = eqx.field(static=True, default=False)
    components: int | None = eqx.field(static=True, default=None)
    """Number of components k of isotropic units. The matrices of the state then represent k×k
    ones: multiples of 1 for the inputs, and for tangents whatever commutes with the weights. A
    1×1 matrix is enough for the trace, and a 2×2 one for any sector, at the cost of scalar
    units."""

    alone: bool = eqx.field(static=True, default=False)
    """Treat inputs one by one; pairs are not computed."""

    def inside_branch(self) -> "MeanField":
        how = (self.order, self.equal_lengths, self.errors, True, self.components)
        return MeanField(*how, self.alone)

    def affine(self, node: Affine, state: PreActivation | PostActivation):
        law, table = node.weights, node.weights.table
        size = state.value.tangent.shape[-1]
        if table.shape[2] != (self.components or size):
            raise TypeError(
                f"`components`: the weights act on units of {table.shape[2]} components; the "
                f"signal has {self.components or size}"
            )
        dtype = state.value.covariance.dtype
        variance = law.entry_variance
        if self.components is not None:
            # Σ_a e_a X e_aᵀ = X Σ_a e_a e_aᵀ for an X that commutes with the table.
            variance, table = law.variance, np.eye(size)[None]
        # Keep the precision of the state throughout.
        variance = variance.astype(dtype)

        def weigh(moments: Moments, table: Array) -> Moments:
            def through(matrix):
                if self.components is not None:
                    return variance * matrix
                turned = "aij,...jk,alk->...il"
                return variance * xp.einsum(turned, table, matrix, table, precision="highest")

            moved = (through(moments.covariance), through(moments.separation))
            return Moments(*moved, through(moments.tangent), moments.log_gain)

        table = xp.asarray(table, dtype)
        bias = node.bias_variance.astype(dtype) * xp.eye(table.shape[1], dtype=dtype)
        value = weigh(state.value, table)
        value = eqx.tree_at(lambda m: m.covariance, value, value.covariance + bias[None, None])
        error = weigh(state.error, xp.abs(table)) if self.errors else _zero_error(value)
        return self._noted(PreActivation(value, error))

    def _noted(self, state: PreActivation) -> tuple[PreActivation, PreActivation | None]:
        if self.errors:
            state = PreActivation(state.value, _rounded(state.value, state.error))
        return state, None if self.in_branch else state

    def pointwise(self, node: Pointwise, state: PreActivation | PostActivation):
        dtype = state.value.covariance.dtype
        activation = cast(node.activation, dtype)
        if is_linear(activation):
            return self._scaled(state, gain(activation, dtype)), None
        if not isinstance(state, PreActivation):
            raise TypeError(
                "a nonlinearity must act on Gaussian moments, as after an Affine; here it acts on "
                f"{type(state).__name__} moments"
            )
        match activation:
            case Componentwise():
                return _componentwise(activation, state, self), None
            case Radial():
                after = radial_field(
                    activation,
                    state,
                    components=self.components,
                    order=self.order,
                    equal_lengths=self.equal_lengths,
                    errors=self.errors,
                    alone=self.alone,
                )
                return after, None
            case _:
                assert_never(activation)

    def normalise(self, node: Normalise, state: PreActivation | PostActivation):
        n, _, k, _ = state.value.covariance.shape
        behind = isinstance(state, PostActivation)
        mean = state.mean if behind else xp.zeros((n, k), state.value.covariance.dtype)
        value, error, mean = normalised_moments(node, state.value, state.error, mean)
        error = _rounded(value, error) if self.errors else _zero_error(value)
        state = PostActivation(value, error, mean) if behind else PreActivation(value, error)
        return state, None

    def noise(self, node: Noise, state: PreActivation | PostActivation):
        n, _, k, _ = state.value.covariance.shape
        dtype = state.value.covariance.dtype
        variance, same = node.variance.astype(dtype), xp.eye(n, dtype=dtype)[..., None, None]
        own = 1 + variance * same

        def noisy(m: Moments) -> Moments:
            square = xp.einsum("aaij->aij", m.covariance)
            fresh = variance * (1 - same) * (square[:, None] + square[None]) / 2
            return Moments(own * m.covariance, m.separation + fresh, own * m.tangent, m.log_gain)

        value = noisy(state.value)
        error = _rounded(value, noisy(state.error)) if self.errors else _zero_error(value)
        mean = state.mean if isinstance(state, PostActivation) else xp.zeros((n, k), dtype)
        return PostActivation(value, error, mean), None

    def _scaled(self, state: PreActivation | PostActivation, factor: Array):
        """The state of u ↦ a u, which stays Gaussian."""
        square = factor**2

        def scaled(m: Moments) -> Moments:
            times = (square * m.covariance, square * m.separation, square * m.tangent)
            return Moments(*times, m.log_gain)

        value = scaled(state.value)
        error = _rounded(value, scaled(state.error)) if self.errors else _zero_error(value)
        if isinstance(state, PreActivation):
            return PreActivation(value, error)
        return PostActivation(value, error, factor * state.mean)

    def add(self, skip: PreActivation | PostActivation, branch: PreActivation | PostActivation):
        if not isinstance(branch, PreActivation):
            raise TypeError(
                "a residual branch must return Gaussian moments, as after an Affine; "
                f"here it returns {type(branch).__name__} moments"
            )

        def total(a: Moments, b: Moments) -> Moments:
            summed = jax.tree.map(xp.add, a, b)
            return eqx.tree_at(lambda m: m.log_gain, summed, a.log_gain)

        summed = (total(skip.value, branch.value), total(skip.error, branch.error))
        state, note = self._noted(PreActivation(*summed))
        if isinstance(skip, PostActivation):
            # A sum with a non-Gaussian term is not Gaussian; its second moments are exact.
            state = PostActivation(state.value, state.error, skip.mean)
        return state, note

    def through_time(self, step, state: PreActivation | PostActivation, steps: int):
        if not isinstance(state, PreActivation):
            raise TypeError(
                "a Recurrent must be driven by Gaussian moments, as after an Affine; here it is by "
                f"{type(state).__name__} moments"
            )
        advance = lambda previous, drive: step(self, previous, drive)[0]
        return self._noted(states_of_all_times(advance, self.boundary, state, steps))

    def kept(self, before: Any, after: Any):
        if isinstance(before, PostActivation) and isinstance(after, PreActivation):
            return PostActivation(after.value, after.error, xp.zeros_like(before.mean))
        return after

    def boundary(self, state: PreActivation | PostActivation):
        if self.in_branch:
            return state
        # Tangents grow by χ per layer; keep their scale as a logarithm.
        size = xp.diagonal(per_component(state.value.tangent))
        size = xp.where((size > 0) & xp.isfinite(size), size, 1.0)
        root = xp.sqrt(size)
        scale = (root[:, None] * root[None])[..., None, None]

        def scaled(m: Moments, log: Any) -> Moments:
            return Moments(m.covariance, m.separation, m.tangent / scale, m.log_gain + log)

        value, error = scaled(state.value, xp.log(size)), scaled(state.error, 0.0)
        return eqx.tree_at(lambda s: (s.value, s.error), state, (value, error))


def _rounded(value: Moments, error: Moments) -> Moments:
    eps = 4 * np.finfo(value.covariance.dtype).eps
    return jax.tree.map(lambda v, e: e + eps * xp.abs(v), value, error)


class _Table(eqx.Module):
    """Moments of φ for pairs of m Gaussian variables: all [m, m], or a list."""

    product: Float[Array, "*pairs"]
    distance: Float[Array, "*pairs"]
    slope: Float[Array, "*pairs"]

    def put(self, rows, columns, pairs: "_Table") -> "_Table":
        """Fill in the entries of the pairs (rows, columns), and their mirror images."""
        return jax.tree.map(
            lambda m, v: put(put(m, (rows, columns), v), (columns, rows), v), self, pairs
        )


def _componentwise(
    activation: Componentwise, state: PreActivation, reading: MeanField
) -> PostActivation:
    """Every component of every input is one Gaussian variable; only pairs of them are needed."""
    n, _, k, _ = state.value.covariance.shape
    m = n * k
    order, equal = reading.order, reading.equal_lengths

    def flat(tensor):  # [n, n, k, k] -> [n k, n k]
        return xp.swapaxes(tensor, 1, 2).reshape(m, m)

    def unflat(matrix):
        return xp.swapaxes(matrix.reshape(n, k, n, k), 1, 2)

    covariance, covariance_error = flat(state.value.covariance), flat(state.error.covariance)
    q, q_error = xp.diag(covariance), xp.diag(covariance_error)
    own, local = single_moments(activation, q, order=order, with_errors=reading.errors)
    none = xp.zeros((m, m), q.dtype)
    value = _Table(xp.diag(own.square), none, xp.diag(own.derivative_square))
    error = _Table(none, none, none)
    if reading.errors:
        steep = slope_rate(activation, q, order=order)
        square_error = local.square + xp.abs(own.square_rate) * q_error
        slope_error = local.derivative_square + xp.abs(steep) * q_error
        error = _Table(xp.diag(square_error), none, xp.diag(slope_error))

    rows, columns = np.triu_indices(1 if reading.alone else m, 1)
    if rows.size:
        # The propagated separation is exact for one component of two inputs; between different
        # components it follows from the covariance.
        same = rows % k == columns % k
        separation, separation_error = flat(state.value.separation), flat(state.error.separation)
        apart = (q[:, None] + q[None]) / 2 - covariance
        apart_error = (q_error[:, None] + q_error[None]) / 2 + covariance_error
        s = xp.where(same, separation[rows, columns], apart[rows, columns])
        s_error = xp.where(same, separation_error[rows, columns], apart_error[rows, columns])
        qa, qb = q[rows], q[columns]
        mean = _safe_sqrt(qa * qb)
        x = s / mean
        if not equal:
            x = x - (_safe_sqrt(qa) - _safe_sqrt(qb)) ** 2 / (2 * mean)
        x = xp.clip(x, 0.0, 2.0)

        how = {"order": order, "equal_lengths": equal, "with_errors": reading.errors}
        one_pair = lambda a, b, x: pair_moments(activation, a, b, x, **how)
        pair, local = each(one_pair, qa, qb, x)
        value = value.put(rows, columns, _Table(pair.product, pair.distance, pair.slope))
        if reading.errors:
            ratio = _safe_sqrt(qb / xp.where(qa > 0, qa, 1.0))
            ratio = xp.where(ratio > 0, ratio, 1.0)
            ea, eb = q_error[rows], q_error[columns]
            from_lengths = xp.abs(1 - (1 - x) * ratio) * ea + xp.abs(1 - (1 - x) / ratio) * eb
            x_error = (s_error + from_lengths / 2) / mean
            # ∂product/∂x = −∂distance/∂x = −√(q_a q_b) slope (Price's theorem).
            moved = mean * xp.abs(pair.slope) * x_error
            rate = lambda a, b: xp.abs(a) * ea + xp.abs(b) * eb
            # ∂slope/∂c is at most its chord from |c| to 1: a power series with coefficients >= 0.
            top = xp.sqrt(own.derivative_square[rows] * own.derivative_square[columns])
            apart = xp.minimum(x, 2 - x)
            steep = (top - xp.abs(pair.slope)) / xp.where(apart > 0, apart, 1.0)
            size = xp.where(own.derivative_square > 0, own.derivative_square, 1)
            relative = xp.diag(error.slope) / size
            along = xp.abs(steep) * x_error
            along += xp.abs(pair.slope) * (relative[rows] + relative[columns]) / 2
            if activation.jumps:
                # The slope is at most the ratio of distances r, and falls by at most 2r/x.
                ratio = pair.distance / (mean * xp.where(x > 0, x, 1.0))
                far = max(k * k for k in activation.jumps) * (1 / qa + 1 / qb)
                by_length = 2 * (ratio + xp.abs(pair.slope)) * (1 + far)
                known = _times(2 * ratio / xp.where(x > 0, x, 1.0), x_error)
                known = known + by_length * (ea / qa + eb / qb)
                along = xp.where(xp.isfinite(top), along, known)
            pairs = _Table(
                local.product + moved + rate(pair.product_rate_a, pair.product_rate_b),
                local.distance + moved + rate(pair.distance_rate_a, pair.distance_rate_b),
                local.slope + along,
            )
            error = error.put(rows, columns, pairs)

    value, error = jax.tree.map(unflat, (value, error))
    distance, distance_error = value.distance, error.distance
    if k > 1:
        # Between components i ≠ j: E (φ(u_i) − φ(v_i))(φ(u_j) − φ(v_j)) / 2.
        off = ~xp.eye(k, dtype=bool)[None, None]
        distance = xp.where(off, given_moments(value.product).separation, distance)
        spread = xp.einsum("aaij->aij", error.product)
        spread = (spread[:, None] + spread[None]) / 2 + error.product
        distance_error = xp.where(off, spread, distance_error)

    # Tangents: t_i ↦ φ'(u_i) t_i, so E t_a t_bᵀ is multiplied by E φ'(u_ai) φ'(u_bj).
    old, old_error = state.value, state.error
    tangent_error = _times(value.slope, old_error.tangent)
    tangent_error = tangent_error + _times(error.slope, xp.abs(old.tangent))
    tangent = _times(value.slope, old.tangent)
    after = Moments(value.product, distance, tangent, old.log_gain)
    after_error = Moments(error.product, distance_error, tangent_error, old_error.log_gain)
    if reading.errors:
        after_error = _rounded(after, after_error)
    return PostActivation(after, after_error, own.mean.reshape(n, k))


def _times(factor: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """factor · x, and 0 where x is 0 and the factor infinite, like the slope at a jump."""
    nothing = xp.isinf(factor) & (x == 0)
    return xp.where(nothing, 0.0, xp.where(nothing, 0.0, factor) * x)


def _safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """√x with a finite derivative at 0, where the value is floored."""
    tiny = np.finfo(x.dtype).tiny
    return xp.sqrt(xp.maximum(x, tiny))


def input_state(inputs: Float[Array, "n width k"]) -> PostActivation:
    """The state of given inputs, shape [inputs, width, components]."""
    value = signal_moments(inputs)
    return PostActivation(value, _zero_error(value), xp.mean(inputs, axis=1))


def _zero_error(value: Moments) -> Moments:
    return jax.tree.map(xp.zeros_like, value)


def propagate(
    network: Part, inputs: Real[Array | np.ndarray, "n width k"] | Moments, *, order: int = 64
) -> PreActivation:
    """Compute mean-field moments of n inputs at every layer of a network.

    Parameters
    ----------
    network
        The description.
    inputs
        The inputs, shape [inputs, width, components], or moments over their units
        (`given_moments`). The computation uses the highest precision among inputs and
        description. For a network with a `Recurrent` the inputs are sequences, one after the
        other, and tangents start at the first step of each.
    order
        Nodes per panel of the quadrature, from 8 to 1024; 64 gives 1e-10 for lengths up to 1e6.

    Returns
    -------
    PreActivation
        `value` and `error`, each a `Moments` with a leading depth axis: one entry after every
        `Affine`, residual sum and `Recurrent`, all of them pre-activations.

    Raises
    ------
    ValueError
        If the inputs do not have three axes, or contain anything but finite real numbers; if
        `order` is out of range.
    TypeError
        If `network` is not a description, or begins with a nonlinearity that is not linear; if
        the weights that act on inputs (not on moments of them) are sparse.

    Accuracy
    --------
    `error` is a first-order bound: quadrature and rounding errors of each layer, propagated by
    the derivatives of the map. In a chaotic network the error of a correlation therefore grows
    until the correlation reaches its fixed point.

    References
    ----------
    Poole et al. 2016, eqs. 3-5; Schoenholz et al. 2017, eqs. 2-6.
    """
    check_part("network", network)
    check_order(order)
    inputs = inputs if isinstance(inputs, Moments) else as_signals("inputs", inputs)
    dtype = widest(network, inputs)
    check_device("network", device_of(network, inputs), dtype)
    inputs = cast(inputs, dtype)
    if not isinstance(inputs, Moments):
        check_signals("inputs", inputs)
        check_finite("inputs", inputs)
        check_read_in(network)
    if starts_nonlinear(network):
        raise TypeError(
            "`network`: must begin with an Affine, as theory.feedforward does, since a "
            "nonlinearity needs Gaussian moments; got one that begins with a nonlinearity (put "
            "theory.affine(1.0) before it, which leaves the moments of the inputs as they are)"
        )
    steps = time_steps(network)
    if inside_another((network, inputs)):
        return _propagated(network, inputs, order, steps)
    if is_simple(network, lengths=False):
        kind = structure((network, inputs, order))
        _seen[kind] += (1 + 2 * _pairs(inputs)) * max(depth_of(network), 1)
        if _seen[kind] <= _FEW:
            return on_numpy(_propagated, network, inputs, order, steps)
    return compiled(_propagated, light_options)(network, inputs, order, steps)


_FEW = 600
"""Number of integrals of one structure, over all calls, up to which no program is compiled for
them; they take as long as compiling."""
_seen: Counter = Counter()
"""Integrals so far, by structure; an integral over two variables counts as two."""


def _pairs(inputs: Array | Moments) -> int:
    n, k = (
        np.shape(inputs.covariance)[1:3] if isinstance(inputs, Moments) else np.shape(inputs)[::2]
    )
    return n * k * (n * k - 1) // 2


def depth_of(network: Part) -> int:
    """The total number of layers in the parts of a network."""
    match network:
        case Chain(parts=parts):
            return sum(map(depth_of, parts))
        case Residual(branch=branch):
            return depth_of(branch)
        case Repeat(body=body, depth=depth):
            return depth * max(depth_of(body), 1)
        case Pointwise():
            return 1
        case _:
            return 0


def _propagated(network, inputs, order: int, steps: int) -> PreActivation:
    if isinstance(inputs, Moments):
        n, k = inputs.tangent.shape[:2]
        state = PostActivation(
            inputs, _zero_error(inputs), xp.zeros((n, k), inputs.covariance.dtype)
        )
    else:
        state = input_state(inputs)
    if steps > 1:
        value = first_input_alone(state.value, steps)
        state = eqx.tree_at(lambda s: s.value, state, value)
    _, notes = interpret(network, MeanField(order), state)
    return along_depth(notes)
