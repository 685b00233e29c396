"""Singular values of the Jacobians of many independent networks."""

import jax
from jaxtyping import Array, Float

from sigprop.jacobians._jacobian import JacobianSample, sample_jacobian
from sigprop.networks import check_precision, check_seed, in_blocks
from theory.description import Part, check_part
from theory.numerics import Report, as_signals, cast, check_count, compiled, light_options


def _jacobian_block(network, inputs, key, indices, width, precision):
    def one(index):
        key_ = jax.random.fold_in(key, index)
        x = inputs if inputs.ndim == 3 else inputs[index]
        return sample_jacobian(network, x, key_, width=width, precision=precision)

    return jax.lax.map(one, indices)


def sample_jacobians(
    network: Part,
    inputs: Float[Array, "*networks 1 width_in k"],
    *,
    width: int,
    replicas: int,
    seed: int = 0,
    precision: str = "highest",
    progress: Report | None = None,
) -> JacobianSample:
    """Log singular values of the input-output Jacobians of `replicas` networks.

    Parameters
    ----------
    network, width, replicas, seed, precision, progress
        As in `sample_ensemble`.
    inputs
        One input for all networks, or with a leading axis one for each.

    Returns
    -------
    JacobianSample
        Leading axis over replicas; see `sample_jacobian`.
    """
    check_part("network", network)
    check_count("width", width)
    check_count("replicas", replicas)
    check_seed(seed)
    check_precision(precision)
    key = jax.random.fold_in(jax.random.key(seed), width)
    inputs = as_signals("inputs", inputs)
    if inputs.ndim == 4 and len(inputs) != replicas:
        raise ValueError(
            f"`inputs`: must be one input, or one for each of {replicas} networks; "
            f"got {len(inputs)}"
        )
    network = cast(network, inputs.dtype)
    sample = compiled(_jacobian_block, light_options)
    return in_blocks(
        lambda indices: sample(network, inputs, key, indices, width, precision),
        replicas,
        1,
        progress,
    )
