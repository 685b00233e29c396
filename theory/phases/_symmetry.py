"""The symmetry of a network, derived from its description, and the propagation in each sector.

Notation: the units are z ∈ R^k. A rotation R of every unit is a symmetry if it commutes with the
table of the weights and with φ. The moment map of a layer at σ_w² = 1, X ↦ Σ_a e_a X e_aᵀ, is
the projection onto the matrices that commute with the table, so dimensions are traces.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from theory.description import (
    ALGEBRAS,
    Affine,
    AlgebraName,
    Componentwise,
    Noise,
    Normalise,
    Part,
    Pointwise,
    Radial,
    Reading,
    Survey,
    WeightLaw,
    check_layer,
    check_part,
    components,
    directly,
    interpret,
    is_linear,
)
from theory.gaussian import frozen, radial_moments
from theory.mean_field import MeanField, PreActivation, given_moments
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    cast,
    check_kind,
    check_order,
    check_positive,
    each,
    needs_float64,
    of_one_kind,
    on_host,
    replace_where,
    shown,
    traced,
    xp,
)
from theory.phases._one_layer import SHORTEST
from theory.phases._prediction import depth_scale


class Symmetry(NamedTuple):
    """The continuous symmetry of the hidden units of a network, and what breaks it."""

    group: str
    """"O(k)", "U(m)" or "Sp(m)"; "1" if no rotation is a symmetry."""
    rank: int
    """Number of independent unit vectors over the algebra: k, m or m."""
    dimension: int
    """Number of generators."""
    explicit: bool
    """Whether a bias breaks the symmetry explicitly."""

    def goldstone_modes(self, rank: int | None = None) -> int:
        """Number of generators that a state of this rank breaks: dim G − dim H.

        Parameters
        ----------
        rank
            Rank of the covariance of the state over the algebra, from 1 to `Symmetry.rank`. The
            default is `Symmetry.rank`, as in mean-field theory at its fixed point. The subgroup H
            that leaves the state unchanged is a group of the same kind on the remaining vectors.

        Raises
        ------
        ValueError
            If the rank is out of range.
        """
        rank = self.rank if rank is None else rank
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer):
            raise ValueError(f"`rank`: must be a whole number; got {shown(rank)}")
        if not 1 <= rank <= self.rank:
            raise ValueError(f"`rank`: must be from 1 to {self.rank}; got {rank}")
        return self.dimension - _DIMENSION[self.group[0]](self.rank - int(rank))


_DIMENSION: dict[str, Callable[[int], int]] = {
    "O": lambda k: k * (k - 1) // 2,
    "U": lambda m: m * m,
    "S": lambda m: m * (2 * m + 1),
    "1": lambda _: 0,
}


def commutant_dimensions(law: WeightLaw) -> tuple[int, int]:
    """Numbers of independent symmetric and antisymmetric matrices that commute with the table."""
    table = law.table
    norm = np.sum(table**2) / table.shape[1]
    everything = np.sum(np.einsum("aii->a", table) ** 2) / norm
    mirrored = np.einsum("aij,aji->", table, table) / norm
    return round((everything + mirrored) / 2), round((everything - mirrored) / 2)


class _Found(eqx.Module):
    """What is known about a network so far."""

    components: int = eqx.field(static=True)
    """0 before the first affine layer."""
    algebra: AlgebraName = eqx.field(static=True)
    odd: bool = eqx.field(static=True)
    rotates: bool = eqx.field(static=True)


class _Seen(Reading[_Found]):
    def affine(self, node: Affine, state: _Found):
        # What commutes with the larger table is the symmetry.
        both = (ALGEBRAS[state.algebra], ALGEBRAS[node.weights.algebra])
        algebra = max(both, key=lambda algebra: algebra.order).name
        return _Found(node.weights.components, algebra, state.odd, state.rotates), None

    def pointwise(self, node: Pointwise, state: _Found):
        phi = node.activation
        rotates = isinstance(phi, Radial) or is_linear(phi)
        odd = rotates or (isinstance(phi, Componentwise) and phi.parity == "odd")
        at = (state.components, state.algebra)
        return _Found(*at, state.odd and odd, state.rotates and rotates), None

    def normalise(self, node: Normalise, state: _Found):
        # Rotations change the mean over components.
        kept = state.rotates and (node.kind == "rms" or state.components == 1)
        return _Found(state.components, state.algebra, state.odd, kept), None

    def noise(self, node: Noise, state: _Found):
        return state, None  # one number for all components of a unit

    def add(self, skip: _Found, branch: _Found):
        return branch, None

    def through_time(self, step, state: _Found, steps: int):
        return step(self, state, state)[0], None

    def loop(self, layer, state, layers, depth):
        return layer(state, jax.tree.map(lambda leaf: leaf[0], layers))[0], None


def symmetry(network: Part) -> Symmetry:
    """The symmetry group of the hidden units of a network, derived from its description.

    It consists of the rotations that commute with the weights of every layer and with every
    activation. A bias with variance above 0 breaks it explicitly; a state of finite length
    breaks it spontaneously.

    Parameters
    ----------
    network
        The description.

    Raises
    ------
    ValueError
        If the network has no affine layer.

    References
    ----------
    Iqbal et al. 2026 (arXiv 2605.14685), for O(k) and U(1); Schur's lemma for the others.
    """
    check_part("network", network)
    biased, _ = interpret(on_host(network), _Biased(), np.bool_(False))
    return _group(network)._replace(explicit=bool(biased))


def _group(network: Part) -> Symmetry:
    """The symmetry that the structure allows, regardless of biases."""
    seen, _ = interpret(network, _Seen(), _Found(0, "real", True, True))
    k = seen.components
    if k == 0:
        raise ValueError("`network`: must have an affine layer; got none")
    scalar = k == 1 and seen.odd
    algebra = ALGEBRAS[seen.algebra]
    if not (seen.rotates or scalar) or algebra.group is None:
        return Symmetry("1", 1, 0, False)
    generators = commutant_dimensions(WeightLaw(1.0, components=k, algebra=seen.algebra))[1]
    rank = k // algebra.size
    return Symmetry(f"{algebra.group}({rank})", rank, generators, False)


class SymmetryPhase(enum.IntEnum):
    """How the state at the fixed point transforms under the symmetry."""

    SYMMETRIC = 0
    """q* = 0: nothing propagates."""
    BROKEN = 1
    """q* > 0 without bias: broken spontaneously, with exact Goldstone modes."""
    EXPLICIT = 2
    """A bias breaks it, and Goldstone modes have a finite depth scale."""
    UNKNOWN = 3
    """The length has no finite fixed point, or the parameters are out of range."""


class _Biased(Survey[Any]):
    """Whether any bias has variance above 0."""

    def affine(self, node: Affine, state):
        return state | xp.any(node.bias_variance > 0), None


def symmetry_phase_of(body: Part, length: Estimate, allowed: Bool[Array, ""]) -> Int[Array, ""]:
    """The `SymmetryPhase` of a fixed point of one layer."""
    biased, _ = interpret(body, _Biased(), jnp.asarray(False))
    phase = jnp.where(length.value > 0, SymmetryPhase.BROKEN, SymmetryPhase.SYMMETRIC)
    phase = jnp.where(biased, SymmetryPhase.EXPLICIT, phase)
    known = allowed & jnp.isfinite(length.value)
    return jnp.where(known, phase, SymmetryPhase.UNKNOWN).astype(jnp.int8)


def generators(network: Part) -> Float[np.ndarray, "generators k k"]:
    """Antisymmetric matrices that span the Lie algebra of a network's symmetry.

    Convention: orthonormal with respect to tr(AᵀB)/k, so that |A z| is comparable to |z|.

    Parameters
    ----------
    network
        The description.
    """
    check_part("network", network)
    found = _group(network)
    law = _laws(network)[-1]
    k = law.components
    rows, columns = np.triu_indices(k, 1)
    basis = np.zeros((rows.size, k, k))
    basis[np.arange(rows.size), rows, columns] = 1
    basis = basis - np.swapaxes(basis, 1, 2)
    if found.dimension == 0:
        return basis[:0]
    if found.dimension < rows.size:
        table = max((each.table for each in _laws(network)), key=len)
        basis = np.einsum("aij,gjk,alk->gil", table, basis, table) / len(table)
        _, _, directions = np.linalg.svd(basis.reshape(rows.size, -1), full_matrices=False)
        basis = directions[: found.dimension].reshape(-1, k, k)
    return basis * np.sqrt(k / np.sum(basis**2, axis=(1, 2)))[:, None, None]


def plane_generator(network: Part) -> Float[np.ndarray, "k k"]:
    """A generator A of a network's symmetry that rotates one unit vector over the algebra.

    It satisfies A³ = −A, so exp(θA) = 1 + sin θ A + (1 − cos θ) A².

    Parameters
    ----------
    network
        The description.

    Raises
    ------
    ValueError
        If the network has no continuous symmetry.
    """
    check_part("network", network)
    if _group(network).dimension == 0:
        raise ValueError("`network`: must have a continuous symmetry; got none")
    table = max((law.table for law in _laws(network)), key=len)
    k = table.shape[-1]
    rotation = np.zeros((k, k))
    rotation[1, 0], rotation[0, 1] = 1.0, -1.0
    rotation = np.einsum("aij,jk,alk->il", table, rotation, table)
    return rotation / np.linalg.norm(rotation, 2)


class Sectors(eqx.Module):
    """Growth per layer of small differences of two inputs at the fixed point, by sector."""

    goldstone: Estimate
    """λ_A of a relative rotation: exactly 1 without bias, 1 − σ_b²/q* with it. ABSENT if no
    rotation commutes with the weights."""
    trace: Estimate
    """χ of the distance."""
    symmetric_traceless: Estimate
    """Multiplier of a relative shear; ABSENT if none commutes with the weights."""
    depth_scale_goldstone: Estimate
    """ξ_G = −1/log λ_A of the pseudo-Goldstone modes; INFINITE without bias."""
    order_parameter: Estimate
    """m = E g(|z|) at q*: zero in the symmetric phase."""


def sectors(layer: Part, length: Estimate, *, tolerance: Any = 1e-10, order: int = 64) -> Sectors:
    """Multipliers of one layer at the fixed point, by sector of the symmetry.

    Parameters
    ----------
    layer
        One layer, such as `theory.layer`, with a radial activation.
    length
        q*, the `length` of a `Prediction`.
    tolerance
        Relative error beyond which a value is INACCURATE.
    order
        Nodes per panel of the quadrature, from 8 to 1024.

    Returns
    -------
    Sectors
        ABSENT if the length has no fixed point.

    Raises
    ------
    TypeError
        If `layer` is not one layer with radial activations, or `length` is not an `Estimate`.
    ValueError
        If `tolerance` is not above 0, or `order` out of range.

    References
    ----------
    Iqbal et al. 2026 (arXiv 2605.14685); the multipliers follow from Price's theorem and the
    average over directions of the unit.
    """
    needs_float64("sectors")
    check_layer(layer)
    must = "an Estimate, as theory.predict gives it in its field `length`"
    check_kind("length", length, Estimate, must)
    check_positive("tolerance", tolerance)
    check_order(order)
    layer = cast(layer, length.value.dtype)
    found = [p.activation for p in _pointwise(layer)]
    radial = [phi for phi in found if isinstance(phi, Radial)]
    if not radial or not all(isinstance(phi, Radial) or is_linear(phi) for phi in found):
        raise TypeError("`layer`: sectors need radial activations (theory.radial)")
    law = max(_laws(layer), key=lambda law: len(law.table))
    symmetric, antisymmetric = commutant_dimensions(law)
    present = np.array([antisymmetric > 0, True, symmetric > 1])
    return _sectors(layer, length, present, radial[0], tolerance, order)


_DIRECTIONS = np.array([[[0, 1], [-1, 0]], [[1, 0], [0, 1]], [[1, 0], [0, -1]]])
"""A rotation, the identity and a shear: one matrix per sector."""


_STEP = 1e-4
"""Step in q, for derivatives that multiply errors."""


@directly
def _sectors(body, length, present, phi, tolerance, order) -> Sectors:
    k = components(body)
    finite, zero = xp.isfinite(length.value), length.value == 0
    q = xp.where(finite, xp.where(zero, SHORTEST, length.value), 1.0)
    q_error = frozen(xp.where(finite, length.error, xp.inf))

    def gains(q, tangent):
        moments = given_moments((q * xp.eye(2, dtype=q.dtype))[None, None])
        moments = eqx.tree_at(lambda m: m.tangent, moments, tangent[None, None])
        zero = jax.tree.map(xp.zeros_like, moments)
        after, _ = interpret(body, MeanField(order, components=k), PreActivation(moments, zero))
        along = lambda m: xp.sum(tangent * m[0, 0]) / xp.sum(tangent**2)
        # Every entry of the error bounds its norm.
        error = after.value.whole_tangent_error(after.error)
        bound = xp.max(error[0, 0]) / xp.sqrt(xp.sum(tangent**2))
        return along(after.value.whole_tangent), bound

    def multiplier(tangent, there):
        fn = lambda q: gains(q, tangent)
        if traced(body, q):
            value, rate, local = jax.jvp(fn, (q,), (jnp.ones_like(q),), has_aux=True)
        else:
            (value, local), (beside, _) = fn(q), fn(q * (1 + _STEP))
            rate = (beside - value) / (_STEP * q)
        estimate = as_estimate(value, frozen(local + xp.abs(rate) * q_error), tolerance)
        return replace_where(~finite | ~there, Status.ABSENT, estimate)

    directions = of_one_kind((np.asarray(_DIRECTIONS, q.dtype), present, q))[:2]
    found = each(multiplier, *directions)
    goldstone, trace, shear = (jax.tree.map(lambda e, i=i: e[i], found) for i in range(3))
    m, m_error = radial_moments(phi, q, k, order=order)
    # ∂E g/∂q ≤ √(E g'² E ρ²)/(2√q)
    steep = xp.sqrt(m.trace * k**2 / xp.maximum(q, 1e-300)) / 2
    mean = xp.where(zero, 0.0, m.mean)
    error = xp.where(zero, 0.0, m_error.mean + steep * q_error)
    order_parameter = as_estimate(mean, frozen(error), tolerance)
    return Sectors(
        goldstone,
        trace,
        shear,
        depth_scale(goldstone, tolerance),
        replace_where(~finite, Status.ABSENT, order_parameter),
    )


def _leaves(part: Part, kind: Any) -> list[Any]:
    leaves = jax.tree.leaves(part, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def _laws(part: Part) -> list[WeightLaw]:
    return _leaves(part, WeightLaw)


def _pointwise(part: Part) -> list[Pointwise]:
    return _leaves(part, Pointwise)
