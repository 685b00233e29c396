"""Additional measurements of a study besides loss and accuracy, by name."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sigprop.experiments._continuity_measure import alignments, continuity_of
from sigprop.experiments._diagnostics import diagnose, rotations
from sigprop.experiments._map_exponents import map_exponents
from sigprop.experiments._model import apply_parameters
from sigprop.jacobians import certify, product_log_singular_values

_LOOKED_AT = 2
"""Number of test inputs whose Jacobians are computed."""
_LEADING = 16
"""Number of exponents of a recurrent network."""


class Measured(eqx.Module):
    """One quantity: an array, and the names of its axes."""

    values: Array
    axes: tuple[str, ...] = eqx.field(static=True, default=())


Measure = Callable[..., dict[str, Measured]]
"""(model, parameters, initial, x, labels) ↦ quantities by name. `initial` are the parameters
before training; x and labels are up to 256 test data. Called inside one compiled program."""


def signals(model, parameters, initial, x, labels) -> dict[str, Measured]:
    """States, gradients and conserved charges: `diagnose`."""
    found = diagnose(model, parameters, x, labels, rotations(model.components))
    layer, generator = ("layer",), ("generator",)
    return {
        "order_parameter": Measured(found.order_parameter),
        "similarity": Measured(found.similarity, layer),
        "spread": Measured(found.spread, layer),
        "log_gradient": Measured(found.log_gradient, layer),
        "charge": Measured(found.charge, generator),
        "charge_drift": Measured(found.charge_drift, generator),
    }


def classes(model, parameters, initial, x, labels) -> dict[str, Measured]:
    """`class_similarity`: the mean cosine of the mean states of two classes, at every layer."""
    states = model.hidden(parameters, x, keep=True)[1][1:]
    return {
        "class_similarity": Measured(class_similarity(states, labels, model.classes), ("layer",))
    }


def class_similarity(
    states: Float[Array, "layers n width k"], labels: Int[Array, " n"], count: int
) -> Float[Array, " layers"]:
    """The mean cosine of the mean states of two classes, over all classes that occur."""
    member = jax.nn.one_hot(labels, count, dtype=states.dtype, axis=0)
    sums = jnp.einsum("cn,lnuk->lcuk", member, states, precision="highest")
    flat = sums.reshape(*sums.shape[:2], -1)
    norms = jnp.linalg.norm(flat, axis=2, keepdims=True)
    unit = flat / jnp.where(norms > 0, norms, 1)
    there = jnp.sum(norms[..., 0] > 0, axis=1).astype(states.dtype)
    total = jnp.sum(jnp.sum(unit, axis=1) ** 2, axis=1)
    return (total - there) / (there * (there - 1))


def jacobian(model, parameters, initial, x, labels) -> dict[str, Measured]:
    """The Jacobian of all layers of a deep classifier in float64, at two inputs.

    Quantities: `log_singular_values`; `effective_rank` exp(−Σ p log p), p the fractions of their
    squares in the sum; `exponents`, the QR diagonals over depth; and for the Goldstone identity
    `certificate_residual` and the rounding that it may claim.
    """
    exact = jnp.result_type(float)
    parameters = jax.tree.map(lambda leaf: leaf.astype(exact), parameters)
    x = x[:_LOOKED_AT].astype(exact)
    layers, held = model.layers(parameters)
    states = model.hidden(parameters, x, keep=True)[1]
    arrays, structure = eqx.partition((layers.body, held.notes), eqx.is_array)

    def factor(leaves, z):
        body, own = eqx.combine(leaves, structure)
        layer = lambda flat: apply_parameters(body, own, flat.reshape(1, *z.shape)).reshape(-1)
        return jax.jacfwd(layer)(z.reshape(-1))

    def spectrum(path):
        return product_log_singular_values(jax.vmap(factor)(arrays, path[:-1]))

    found = jax.lax.map(spectrum, jnp.moveaxis(states, 1, 0))
    logs = found.log_singular_values
    share = jax.nn.softmax(2 * logs, axis=1)
    rank = jnp.exp(jnp.sum(jax.scipy.special.entr(share), axis=1))
    axes = ("input", "direction")
    measured = {
        "log_singular_values": Measured(logs, axes),
        "effective_rank": Measured(rank, ("input",)),
        "exponents": Measured(found.lyapunov, axes),
    }
    generators = rotations(model.components)
    if len(generators):
        inside = lambda z: apply_parameters(layers, held, z)
        proved = jax.lax.map(lambda z: certify(inside, z[None], generators), states[0])
        axes = ("input", "generator")
        measured["certificate_residual"] = Measured(proved.residual, axes)
        measured["certificate_claim"] = Measured(proved.claim, axes)
    return measured


def exponents(model, parameters, initial, x, labels) -> dict[str, Measured]:
    """Leading Lyapunov exponents of a recurrent network in float64: `map_exponents`.

    They start from the states at the end of two test sequences. `free`: without read-in, which
    leaves W, φ and the biases of the gates, so that the symmetry is exact. `held`: with the input
    of the last step repeated; the read-in breaks the symmetry to the extent that training made it.
    """
    exact = jnp.result_type(float)
    parameters = jax.tree.map(lambda leaf: leaf.astype(exact), parameters)
    x = x[:_LOOKED_AT].astype(exact)
    states = model.hidden(parameters, x, keep=True)[1][-1]
    inputs = x.reshape(len(x), -1, model.inputs)[:, -1]
    deaf = parameters | {"read_in": jax.tree.map(jnp.zeros_like, parameters["read_in"])}
    generators = jnp.asarray(rotations(model.components), exact)
    measured = {}
    for name, own, seen in (("free", deaf, jnp.zeros_like(inputs)), ("held", parameters, inputs)):

        def follow(here, own=own):
            state, x_t = here
            step = lambda z: model.step(own, z[None], x_t[None])[0]
            return map_exponents(step, state, generators, count=min(_LEADING, model.features))

        found = jax.lax.map(follow, (states, seen))
        axes = ("input", "direction")
        measured[f"{name}_exponents"] = Measured(found.values, axes)
        measured[f"{name}_standard_error"] = Measured(found.standard_error, axes)
        measured[f"{name}_alignment"] = Measured(found.alignment, axes)
        measured[f"{name}_length"] = Measured(found.length, ("input",))
    return measured


def continuity(model, parameters, initial, x, labels) -> dict[str, Measured]:
    """Alignment of neighbouring layers, of W, ΔW and the gradients: `continuity_of`."""
    found = continuity_of(model, parameters, initial, x, labels)
    return {name: Measured(values, axes) for name, (values, axes) in found.items()}


def projections(model, parameters, initial, x, labels) -> dict[str, Measured]:
    """Alignment of neighbouring layers, projection by projection of a transformer."""
    measured = {}
    for name, weights in model.projections(parameters).items():
        for quantity, values in alignments(weights).items():
            axis = "layer" if quantity == "effective_rank" else "pair"
            measured[f"{name}_{quantity}"] = Measured(values, (axis,))
    return measured


MEASURES: dict[str, Measure] = {
    "signals": signals,
    "classes": classes,
    "jacobian": jacobian,
    "exponents": exponents,
    "continuity": continuity,
    "projections": projections,
}
"""The measurements, by their names in a study."""
