"""Leading Lyapunov exponents of one network, and which of them the symmetry protects.

Notation: Q_l is an orthonormal frame of tangents after layer l, and J_l Q_{l-1} = Q_l R_l with R_l
upper triangular. Exponent i is the mean over depth of log R_l[i, i]. The first j columns of Q_l
span V_j, the fastest-growing subspace of j dimensions, whatever the initial frame.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sigprop.networks import (
    Along,
    Blank,
    FiniteNetwork,
    Signals,
    check_explicit,
    check_key,
    check_precision,
    draws_matrices,
    eigvalsh,
    qr,
    svd,
)
from theory import Part
from theory.description import Stacked, along_depth, check_part, interpret
from theory.mean_field import check_signals
from theory.numerics import (
    as_signals,
    cast,
    check_count,
    largest_exponent,
    norm,
    one_program,
    plain_options,
    times_power,
)
from theory.phases import generators

_BLOCKS = 16
"""Blocks of depth whose means give the standard error."""
_OUT = 1e-3
"""A direction with this part outside V_j counts as half inside."""


class Exponents(eqx.Module):
    """Leading Lyapunov exponents of one network along one trajectory."""

    values: Float[Array, " count"]
    """Natural logarithm of the growth per layer; descending within standard errors."""
    standard_error: Float[Array, " count"]
    """Of the average over depth (not over networks), from the means over blocks of depth."""
    alignment: Float[Array, " count"]
    """By how much direction i increases the number of dimensions that V_i shares with the
    directions A z of the generators: 1 for exponents that the symmetry protects, 0 for others,
    and in between if the depth is too small to separate neighbours. The sum is at most the number
    of broken generators."""
    expected: Float[Array, " generators"]
    """log(|A z_L|/|A z_0|)/L, of root mean squares over units: the exponents along the directions
    of the generators, by equivariance; without a bias, J maps A z_0 to A z_L. This and the
    following fields are NaN if z_L underflows."""
    outside: Float[Array, " generators"]
    """The part of A z_L/|A z_L| outside V_count. Near 0, its exponent is among the values."""
    residual: Float[Array, " generators"]
    """The part of J(A x) − A z_L outside V_count, over |A z_L|, with J re-orthogonalised against
    V_count at every layer. It shows how far rounding violates the identity, without the directions
    that amplify rounding most. Compare it with `outside`, the part that can be tested."""


class _Frame(Signals):
    """The columns of the frame are the tangents: `count` generic ones, then one per generator."""

    log_stretch: Float[Array, " columns"] = eqx.field(kw_only=True)
    """Σ_l log R_l[i, i]."""
    triangle: Float[Array, "generators generators"] = eqx.field(kw_only=True)
    """The product of the blocks of R_l that belong to the generators."""


class _Following(Along[_Frame]):
    """A finite network whose tangents are re-orthonormalised at every boundary."""

    def note(self, state: _Frame):
        return state.log_stretch

    def at_boundary(self, state: _Frame) -> _Frame:
        return orthonormalised(state)

    def through_time(self, step, state: _Frame, steps: int):
        """The states of one sequence; returns the last one."""
        drives = state.values
        if len(drives) != steps:
            raise ValueError(f"`x`: must be one sequence of {steps} inputs; got {len(drives)}")
        frame = state.tangents[:1]
        columns = (1 + frame.shape[-1]) * max(steps - 1, 1)
        blank = Blank(
            self.network.key, self.network.width, columns, self.network.explicit_weights, False
        )
        unit = jnp.zeros(drives.shape[1:], drives.dtype)
        shared = step(blank, unit, unit)[1]

        def advance(carry, drive):
            previous, shared = carry
            here = previous.moved(drive[None], jnp.zeros_like(frame))
            network = eqx.tree_at(
                lambda n: n.shared, self.network, shared, is_leaf=lambda x: x is None
            )
            after, (shared, _) = step(_Following(network), previous, here)
            return (self.boundary(after), (shared, None)), previous.log_stretch

        first = dataclasses.replace(
            state, values=drives[:1], tangents=frame, log_gain=state.log_gain[:1]
        )
        start = (self.boundary(first), shared)
        (last, _), stretch = jax.lax.scan(advance, start, drives[1:])
        return last, Stacked(stretch)


def orthonormalised(state: _Frame) -> _Frame:
    """Represent the same flag of subspaces by orthonormal columns; add their growth to the logs."""
    shape = state.tangents.shape
    q, r = qr(state.tangents.reshape(-1, shape[-1]))
    diagonal = jnp.diagonal(r)
    signs = jnp.where(diagonal < 0, -1, 1).astype(r.dtype)
    q, r = q * signs[None], r * signs[:, None]
    own = len(state.triangle)
    corner = r[len(r) - own :, len(r) - own :]
    return dataclasses.replace(
        state,
        tangents=q.reshape(shape),
        log_stretch=state.log_stretch + jnp.log(jnp.abs(diagonal)),
        triangle=jnp.matmul(corner, state.triangle, precision="highest"),
    )


def sample_exponents(
    network: Part,
    x: Float[Array, "steps width_in k"],
    *,
    key: Key[Array, ""],
    width: int,
    count: int,
    discard: int | None = None,
    explicit_weights: bool | None = None,
    precision: str = "highest",
) -> Exponents:
    """Draw one network and follow a frame of `count` tangents through its depth.

    Parameters
    ----------
    network
        The description. Its outermost `Repeat` should be hundreds of layers deep, or its
        `Recurrent` as many steps long; steps then count as layers.
    x
        One input, or one sequence, of which only the first input is perturbed. Its dtype is that
        of the simulation.
    key, width, precision
        As in `sample_network`.
    count
        Number of leading exponents, at most width_in · k (the dimension of the input) minus the
        number of generators of the symmetry, which are followed as well.
    discard
        Number of initial layers to leave out of the averages, while the frame converges; by
        default a tenth of all layers.
    explicit_weights
        As in `sample_network`. Without them the law is the same, at a cost of
        width · (count + generators)², times steps² for a `Recurrent`.

    Convention
    ----------
    Exponents are those of |J v|, not of its square: a generic perturbation of a wide network
    has ½ log χ.

    Accuracy
    --------
    Finite depth does not separate neighbours closer than 1/depth, and adds an error of order
    1/depth to the standard error. The values are QR diagonals: they become Lyapunov exponents as
    the depth goes to infinity, and are not the singular values of the product.

    Raises
    ------
    ValueError
        If `count` or `discard` is out of range.

    References
    ----------
    Benettin et al. 1980 (the frame); Mo 2026 (arXiv 2605.03338), for the number of exact
    zeros: at least the dimension of what the state breaks.
    """
    check_part("network", network)
    check_key("key", key)
    check_count("width", width)
    if discard is not None:
        check_count("discard", discard, 0)
    check_explicit(explicit_weights)
    check_precision(precision)
    x = as_signals("x", x)
    check_signals("x", x)
    steps, width_in, k = x.shape
    later, x = x[1:], x[:1]
    a = jnp.asarray(generators(network), x.dtype)
    room = width_in * k - len(a)
    check_count("count", count)
    if count > room:
        raise ValueError(
            f"`count`: must be at most width_in · k less the generators, {room}; got {count}"
        )
    columns = count + len(a)
    met = (1 + columns) * k * steps
    explicit_weights = draws_matrices(explicit_weights, width, met, network)
    network = cast(network, x.dtype)
    return _sampled(network, x, later, a, key, width, count, discard, explicit_weights, precision)


@one_program(plain_options)
def _sampled(
    network, x, later, a, key, width, count, discard, explicit_weights, precision
) -> Exponents:
    _, width_in, k = x.shape
    steps, columns = 1 + len(later), count + len(a)
    weights_key, frame_key = (jax.random.fold_in(key, i) for i in range(2))
    generic = jax.random.normal(frame_key, (1, width_in, k, count), x.dtype)
    tangents = jnp.concatenate([generic, _rotated(a, x)], axis=-1)
    start = _Frame(
        x,
        tangents,
        jnp.zeros(1, x.dtype),
        log_stretch=jnp.zeros(columns, x.dtype),
        triangle=jnp.eye(len(a), dtype=x.dtype),
    )
    start = orthonormalised(start)
    start = eqx.tree_at(lambda s: s.log_stretch, start, jnp.zeros_like(start.log_stretch))
    if steps > 1:
        still = jnp.zeros((steps - 1, width_in, k, columns), x.dtype)
        start = dataclasses.replace(
            start,
            values=jnp.concatenate([x, later]),
            tangents=jnp.concatenate([start.tangents, still]),
            log_gain=jnp.zeros(steps, x.dtype),
        )
    reading = _Following(FiniteNetwork(weights_key, width, None, precision, explicit_weights))
    final, notes = interpret(network, reading, start)

    stretch = along_depth(notes)
    depth = len(stretch) - 1
    discard = depth // 10 if discard is None else discard
    check_count("discard", discard, 0)
    if depth - discard < _BLOCKS:
        raise ValueError(
            f"`discard`: must leave at least {_BLOCKS} layers of the {depth} that the network "
            f"repeats; got {discard}"
        )
    # A layer is noted before its boundary, so that layer l ends at note l + 1.
    stretch = jnp.concatenate([stretch[1:], final.log_stretch[None]])[:, :count]
    values, error = block_averages(stretch, discard)

    frame = final.tangents.reshape(-1, columns)
    directions = _rotated(a, final.values).reshape(len(frame), len(a))
    power = largest_exponent(directions, 0)
    directions = times_power(directions, -power)
    size = jnp.linalg.norm(directions, axis=0)
    gone = size == 0  # underflow
    size = jnp.where(gone, 1, size)
    before = norm(_rotated(a, x).reshape(width_in * k, len(a)), 0)
    units = np.sqrt(width_in * k / len(frame)).astype(x.dtype)
    grown = jnp.log(size * units) + math.log(2) * power[0].astype(x.dtype) - jnp.log(before)
    expected = jnp.where(gone, jnp.nan, grown) / depth
    leading, own = frame[:, :count], frame[:, count:]
    rest = _without(leading, directions)
    followed = times_power(jnp.matmul(own, final.triangle, precision="highest"), -power)
    unknown = lambda x: jnp.where(gone, jnp.nan, x)
    residual = unknown(jnp.linalg.norm(followed - rest, axis=0) / size)
    outside = unknown(jnp.linalg.norm(rest, axis=0) / size)
    protected = alignment(leading, directions / size[None])
    return Exponents(values, error, protected, expected, outside, residual)


def block_averages(
    total: Float[Array, "ends count"], discard: int
) -> tuple[Float[Array, " count"], Float[Array, " count"]]:
    """Mean growth per step of a cumulative sum, and its standard error.

    The sum starts at step 0, the first `discard` steps are left out, and the error is from the
    means over blocks.
    """
    depth = len(total) - 1
    ends = np.linspace(discard, depth, _BLOCKS + 1).round().astype(int)
    means = (total[ends[1:]] - total[ends[:-1]]) / np.diff(ends)[:, None].astype(total.dtype)
    error = jnp.std(means, axis=0, ddof=1) / np.sqrt(_BLOCKS).astype(total.dtype)
    return (total[depth] - total[discard]) / (depth - discard), error


def _rotated(a: Float[Array, "generators k k"], x: Float[Array, "1 width k"]) -> Array:
    """A x for every generator, as columns of tangents."""
    return jnp.einsum("gij,nuj->nuig", a, x, precision="highest")


def _without(frame: Float[Array, "size m"], columns: Float[Array, "size g"]) -> Array:
    for _ in range(2):  # the second pass removes what rounding left
        overlap = jnp.matmul(frame.T, columns, precision="highest")
        columns = columns - jnp.matmul(frame, overlap, precision="highest")
    return columns


def alignment(frame: Float[Array, "size count"], directions: Float[Array, "size g"]) -> Array:
    """By how much each column increases the number of dimensions that V_j shares with `directions`.

    That number is Σ τ²/(s² + τ²) over the sines s of the principal angles between V_j and the
    span of the directions.
    """
    if directions.shape[1] == 0:
        return jnp.zeros(frame.shape[1], frame.dtype)
    u, s, _ = svd(directions)
    eps = jnp.finfo(frame.dtype).eps
    basis = u * (s > s[:1] * eps * frame.shape[0]).astype(frame.dtype)[None]
    dimension = jnp.sum(basis**2)

    def inside(rest):
        gram = jnp.matmul(rest.T, rest, precision="highest")
        sines = jnp.maximum(eigvalsh(gram), 0)
        return dimension - jnp.sum(sines / (sines + _OUT**2))

    def step(carry, column):
        rest, before = carry
        rest = rest - column[:, None] * jnp.matmul(column, rest, precision="highest")[None]
        after = inside(rest)
        return (rest, after), after - before

    return jax.lax.scan(step, (basis, inside(basis)), frame.T)[1]
