"""The nodes of the description of a random network.

A description is data: an immutable tree of a few node types, whose variances are array leaves.
`theory.description._interpret` reads it.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.description._activations import Activation, Componentwise, Radial
from theory.description._algebra import ALGEBRAS, AlgebraName
from theory.description._linearity import is_linear
from theory.description._weights import (
    GaussianWeights,
    OrthogonalWeights,
    WeightFamily,
    weight_family,
)
from theory.numerics import (
    Array,
    as_real,
    check_count,
    check_kind,
    check_length,
    check_variance,
    check_word,
    largest_exponent,
    renamed,
    shown,
    times_power,
)


def _floats(name: str) -> Callable[[Any], Array]:
    """Make the converter of a field of real numbers."""

    def convert(value: Any) -> Array:
        array = jnp.asarray(as_real(name, value))
        kind = array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else float
        return jnp.asarray(array, dtype=jnp.result_type(float, kind))

    return convert


def _family(value: Any) -> WeightFamily:
    with renamed(weights="family"):
        return weight_family(value)


class WeightLaw(eqx.Module):
    """The law of a random weight matrix between layers of units with k real components.

    A weight between two units is w = Σ_a w_a e_a, with real w_a and the fixed k×k matrices e_a
    of `table`. It acts on the k components of a unit.

    Convention: `variance` is σ_w². The w_a are centred, with variance
    σ_w²/(fan_in · tr(Σ_a e_a e_aᵀ)/k). The length per real component is therefore multiplied by
    σ_w², whatever the table and the `family`.

    The `family` is the law of the entries up to their variance: independent Gaussian entries
    (`GaussianWeights`, or "gaussian"); a Haar-distributed matrix that is orthogonal over the
    algebra, that is orthogonal, unitary or symplectic (`OrthogonalWeights`, or "orthogonal";
    truncated if the layer is not square); or independent entries most of which are 0
    (`SparseWeights`, or "sparse:DENSITY").

    The `algebra` says which numbers weights are: real; complex (the k components are k/2 complex
    numbers); quaternions (k/4 of them); or "dense", a full k×k matrix between any two units. The
    symmetry of the layer is what commutes with the table: O(k), U(k/2), Sp(k/4), or only the
    sign.
    """

    variance: Float[Array, "*layers"] = eqx.field(converter=_floats("variance"))
    family: WeightFamily = eqx.field(static=True, converter=_family, default=GaussianWeights())
    components: int = eqx.field(static=True, default=1)
    algebra: AlgebraName = eqx.field(static=True, default="real")

    def __check_init__(self):
        check_variance("variance", self.variance)
        check_count("components", self.components)
        check_word("algebra", self.algebra, ALGEBRAS)
        if isinstance(self.family, OrthogonalWeights) and ALGEBRAS[self.algebra].basis is None:
            raise ValueError(
                "`family`: orthogonal weights must be real, complex or quaternion; got dense"
            )
        size = ALGEBRAS[self.algebra].size
        if self.components % size:
            raise ValueError(
                f"`components`: {self.algebra} weights act on a multiple of {size} real "
                f"components; got {self.components}"
            )

    @property
    def table(self) -> np.ndarray:
        """The matrices e_a, shape [D, k_out, k]; for real weights the identity alone."""
        return ALGEBRAS[self.algebra].table(self.components)

    @property
    def entry_variance(self) -> Float[Array, "*layers"]:
        """The variance of one real w_a, times fan_in."""
        table = self.table
        return self.variance * (table.shape[1] / float(np.sum(table**2)))


class Affine(eqx.Module):
    """z = W x + b with fresh random W, and b ~ N(0, σ_b²) in every real component.

    `width` is the number of output units if the description fixes it (a read-out). Otherwise it
    is chosen when the network is sampled, and the theory never sees it.
    """

    weights: WeightLaw
    bias_variance: Float[Array, "*layers"] = eqx.field(converter=_floats("bias_variance"))
    width: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_variance("bias_variance", self.bias_variance)
        if self.width is not None:
            check_count("width", self.width)


class Pointwise(eqx.Module):
    """The nonlinearity φ, applied to every unit."""

    activation: Activation

    def __check_init__(self):
        check_activation(self.activation)


class Normalise(eqx.Module):
    """x ↦ (x − m)/√(v + ε) over all real numbers of a layer, for each input separately; no gain.

    For "layer", m is the mean and v the variance; for "rms", m = 0 and v is the mean square.

    References
    ----------
    Ba, Kiros and Hinton 2016; Zhang and Sennrich 2019.
    """

    kind: Literal["layer", "rms"] = eqx.field(static=True, default="layer")
    epsilon: float = eqx.field(static=True, default=1e-5)

    def __check_init__(self):
        check_word("kind", self.kind, ("layer", "rms"))
        check_length("epsilon", self.epsilon)

    def __call__(self, x: Float[Array, "*shape"], axes: tuple[int, ...]) -> Float[Array, "*shape"]:
        """Normalise over the axes that contain the numbers of a layer."""
        if self.kind == "layer":
            power = largest_exponent(x, axes)
            unit = times_power(x, -power)
            x = times_power(unit - jnp.mean(unit, axis=axes, keepdims=True), power)
        power = largest_exponent(x, axes)
        if self.epsilon:
            # Squares far below ε do not matter.
            power = jnp.maximum(power, math.frexp(self.epsilon)[1] // 2)
        unit = times_power(x, -power)
        added = times_power(jnp.full_like(power, self.epsilon, x.dtype), -2 * power)
        return unit / jnp.sqrt(jnp.mean(unit * unit, axis=axes, keepdims=True) + added)


class Noise(eqx.Module):
    """x ↦ x (1 + √v g) with g standard normal: multiplicative noise, such as Gaussian dropout.

    Convention: g is fresh for every unit and every input, and the same for all real components
    of a unit. So two equal inputs get different noise, but an input and an infinitesimal
    perturbation of it get the same. Dropout that keeps a unit with probability p has the same
    second moments at v = (1 − p)/p.

    χ and the phase therefore describe nearby inputs under the same noise, while c* describes
    inputs with independent noise: it is below 1 even if χ < 1.

    Examples
    --------
    >>> tanh = theory.Pointwise(theory.activation("tanh"))
    >>> layer = theory.Chain((tanh, theory.Noise(0.25), theory.affine(1.5, 0.05)))
    >>> print(f"{float(theory.predict(layer).correlation.value):.6f}")
    0.264600

    References
    ----------
    Srivastava et al. 2014, section 10; Schoenholz et al. 2017, section 5.
    """

    variance: Float[Array, "*layers"] = eqx.field(converter=_floats("variance"))

    def __check_init__(self):
        check_variance("variance", self.variance)


def _parts(value: Any) -> tuple:
    if not isinstance(value, Iterable):
        raise TypeError(f"`parts`: must be a sequence of parts; got {shown(value)}")
    return tuple(value)


class Chain(eqx.Module):
    """Several parts in a row, the first one first."""

    parts: "tuple[Part, ...]" = eqx.field(converter=_parts)

    def __check_init__(self):
        if not self.parts:
            raise ValueError("`parts`: a chain must have at least one part; got none")
        for part in self.parts:
            check_part("parts", part)


class Residual(eqx.Module):
    """h ↦ h + branch(h).

    The branch must end in an `Affine`: its fresh weights make the branch independent of h. Only a
    `Normalise` or a linear `Pointwise` may follow it, which rescale Gaussian signals.
    """

    branch: "Part"

    def __check_init__(self):
        check_part("branch", self.branch)
        _check_end(self.branch, "branch", "a residual branch", "the skip connection")


class Repeat(eqx.Module):
    """The body, repeated `depth` times; every array leaf of the body has a leading depth axis.

    Build it with `repeat`, which broadcasts one body, or from a body whose leaves already have
    one value per layer (a schedule).
    """

    body: "Part"
    depth: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("depth", self.depth)
        check_part("body", self.body)
        for leaf in jax.tree.leaves(eqx.filter(self.body, eqx.is_array)):
            if leaf.ndim == 0 or leaf.shape[0] != self.depth:
                raise ValueError(
                    f"`body`: every array leaf must have a leading axis of size depth = "
                    f"{self.depth}; got shape {leaf.shape} (use repeat(body, depth))"
                )


class Recurrent(eqx.Module):
    """z_1 = u_1 and z_t = u_t + body(z_{t−1}) for t = 2 … `steps`, with one body for all steps.

    Every `Affine` of the body draws its weights and biases once; they are shared over time.

    Convention: the axis over inputs contains whole sequences, one after the other, each of
    `steps` inputs. The node maps the drives u_t to the states z_t. Parts before and after it act
    on every step with the same weights, as they do on every input. The body must end in an
    `Affine`, as a residual branch must, so that its output is independent of the drives.
    """

    body: "Part"
    steps: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("steps", self.steps)
        check_part("body", self.body)
        _check_end(self.body, "body", "a recurrent body", "the drives")
        check_no_noise("body", self.body)


def _check_end(last: "Part", field: str, what: str, other: str) -> None:
    # Parts that only rescale keep the output of an Affine Gaussian.
    found = next((leaf for leaf in _backwards(last) if not only_scales(leaf)), last)
    if not isinstance(found, Affine):
        raise TypeError(
            f"`{field}`: {what} must end in an Affine, whose fresh weights make it independent "
            f"of {other}, with nothing after it but a Normalise or a linear Pointwise; got "
            f"{type(found).__name__} at its end"
        )


def _backwards(part: "Part") -> "Iterator[Part]":
    match part:
        case Chain(parts=parts):
            for member in reversed(parts):
                yield from _backwards(member)
        case Repeat(body=body):
            yield from _backwards(body)
        case _:
            yield part


def only_scales(part: "Part") -> bool:
    if isinstance(part, Pointwise):
        return is_linear(part.activation)
    return isinstance(part, Normalise)


Part: TypeAlias = Affine | Pointwise | Normalise | Noise | Chain | Residual | Repeat | Recurrent


def check_part(name: str, value: Any) -> None:
    """Raise a `TypeError` that names the argument unless it is a description."""
    if not isinstance(value, Part):
        hint = ""
        if isinstance(value, Componentwise | Radial):
            hint = " (wrap it in theory.Pointwise)"
        raise TypeError(f"`{name}`: must be a part such as theory.layer; got {shown(value)}{hint}")


def check_no_noise(name: str, step: Part) -> None:
    """Raise a `TypeError` that names the argument if a description contains a `Noise`."""
    found = jax.tree.leaves(step, is_leaf=lambda node: isinstance(node, Noise))
    if any(isinstance(node, Noise) for node in found):
        raise TypeError(f"`{name}`: noise over time must be an input; got a Noise in a step")


def check_activation(activation: Any) -> None:
    """Raise a `TypeError` unless it is an activation."""
    must = "made by theory.activation, theory.componentwise or theory.radial"
    check_kind("activation", activation, Componentwise | Radial, must)
