"""Gradient coherence of finite networks at initialisation, without forming a gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sigprop.networks._along import Along
from sigprop.networks._arguments import check_key, check_seed
from sigprop.networks._ensemble import default_block, in_blocks
from sigprop.networks._finite_network import FiniteNetwork, Signals, start_at
from sigprop.networks._lapack import eigh
from theory import Part
from theory.description import along_depth, check_part, interpret
from theory.gradients import check_gram, layers_of
from theory.numerics import (
    Report,
    as_array,
    as_real,
    cast,
    check_count,
    check_flag,
    compiled,
    largest_exponent,
    times_power,
)


class _Probed(Along[Signals]):
    """A finite network that adds zeros at the boundaries and notes its signals."""

    probes: Float[Array, "*depth n width k"]

    def note(self, state: Signals):
        return state.values

    def at_boundary(self, state: Signals) -> Signals:
        return state.moved(state.values + self.probes, state.tangents)

    def through_time(self, step, state: Signals, steps: int):
        raise TypeError("`network`: gradients of different layers need a Repeat; got a Recurrent")


def network_coherence(
    network: Part,
    inputs: Float[Array, "n width_in k"],
    *,
    key: Key[Array, ""],
    width: int,
    loss_gram: Float[Array, "n n"] | None = None,
    explicit_weights: bool = True,
) -> Float[Array, "layers layers"]:
    """The cosines ⟨G_l, G_m⟩/(‖G_l‖ ‖G_m‖) of the gradients of one drawn network.

    Convention: as in `theory.gradients.gradient_coherence`.

    Parameters
    ----------
    network, inputs, loss_gram
        As in `sample_coherence`.
    key
        Decides the weights, the biases and the gradients at the outputs.
    width, explicit_weights
        As in `sample_network`.
    """
    check_part("network", network)
    check_key("key", key)
    check_count("width", width)
    check_flag("explicit_weights", explicit_weights)
    layers = layers_of(network)
    inputs = as_array("inputs", inputs, "[inputs, width_in, components]")
    n = inputs.shape[0]
    gram = jnp.ones((n, n)) if loss_gram is None else jnp.asarray(as_real("loss_gram", loss_gram))
    check_gram(gram, n)
    network, dtype = cast(network, inputs.dtype), inputs.dtype
    weights_key, loss_key = (jax.random.fold_in(key, i) for i in range(2))
    size, vectors = eigh(gram.astype(dtype))
    root = vectors * jnp.sqrt(jnp.maximum(size, 0))[None]
    k = inputs.shape[2]

    def loss(probes):
        finite = FiniteNetwork(weights_key, width, explicit_weights=explicit_weights)
        reading = _Probed(finite, probes)
        last, notes = interpret(network, reading, start_at(inputs))
        drawn = jax.random.normal(loss_key, last.values.shape, dtype)
        direction = jnp.tensordot(root, drawn, 1, precision="highest")
        return jnp.sum(direction * last.values), along_depth(notes)

    probes = jnp.zeros((layers.repeat.depth, n, width, k), dtype)
    backward, signals = jax.grad(loss, has_aux=True)(probes)
    nodes, structure = eqx.partition(cast(layers.pointwise, dtype), eqx.is_array)
    phi = lambda leaves, z: eqx.combine(leaves, structure).activation(z)
    forward = jax.vmap(phi)(nodes, signals[: layers.repeat.depth])
    # Cosines do not depend on the scales of the layers.
    unit = lambda x: times_power(x, -largest_exponent(x, (1, 2, 3)))
    backward, forward = unit(backward), unit(forward)
    over_units = lambda x: jnp.einsum("laui,mbuj->lmabij", x, x, precision="highest")
    table = jnp.asarray(layers.affine.weights.table, dtype)
    lifted = jnp.einsum(
        "cij,lmabjk,cok->lmabio", table, over_units(forward), table, precision="highest"
    )
    inner = jnp.einsum("lmabio,lmabio->lm", over_units(backward), lifted, precision="highest")
    norm = jnp.sqrt(jnp.diagonal(inner))
    return inner / (norm[:, None] * norm[None])


@compiled
def _block(network, inputs, key, indices, width, loss_gram, explicit_weights):
    def one(index):
        key_ = jax.random.fold_in(key, index)
        how = {"loss_gram": loss_gram, "explicit_weights": explicit_weights}
        return network_coherence(network, inputs, key=key_, width=width, **how)

    return jax.lax.map(one, indices)


def sample_coherence(
    network: Part,
    inputs: Float[Array, "n width_in k"],
    *,
    width: int,
    replicas: int,
    seed: int = 0,
    loss_gram: Float[Array, "n n"] | None = None,
    explicit_weights: bool = True,
    progress: Report | None = None,
) -> Float[Array, "networks layers layers"]:
    """Cosines of the gradients of all pairs of layers, in independent networks of one width.

    Parameters
    ----------
    network
        As in `theory.gradients.gradient_coherence`, which predicts the limit of their means.
    inputs
        Shape [inputs, width_in, components]; its dtype is that of the simulation.
    width, replicas, seed, explicit_weights, progress
        As in `sample_ensemble`.
    loss_gram
        As in `theory.gradients.gradient_coherence`; gradients at the outputs are drawn with it.

    Raises
    ------
    TypeError, ValueError
        As `theory.gradients.gradient_coherence` and `sample_ensemble`.
    """
    check_count("width", width)
    check_count("replicas", replicas, 2)
    check_seed(seed)
    check_part("network", network)
    check_flag("explicit_weights", explicit_weights)
    layers = layers_of(network)
    inputs = as_array("inputs", inputs, "[inputs, width_in, components]")
    if loss_gram is not None:
        loss_gram = jnp.asarray(as_real("loss_gram", loss_gram))
        check_gram(loss_gram, len(inputs))
    key = jax.random.fold_in(jax.random.key(seed), width)
    entries = width**2 if explicit_weights else width * (4 * len(inputs)) ** 2
    return in_blocks(
        lambda indices: _block(network, inputs, key, indices, width, loss_gram, explicit_weights),
        replicas,
        default_block(replicas, entries * layers.repeat.depth),
        progress,
    )
