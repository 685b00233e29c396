"""Many independent finite networks of one description."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.networks._arguments import check_explicit, check_precision, check_seed
from sigprop.networks._depth import outer_depth
from sigprop.networks._lapack import one_thread
from sigprop.networks._limits import MOST_WITH_MATRICES
from sigprop.networks._sample import Sample, sample_network, sampled_inputs
from sigprop.networks._weights import draws_matrices
from theory import Part
from theory.description import check_part
from theory.mean_field import check_finite
from theory.numerics import (
    Report,
    cast,
    check_count,
    check_flag,
    compile_side_by_side,
    compiled,
    cores,
    counter,
    device_of,
    plain_options,
)


class Ensemble(eqx.Module):
    """Measurements of `replicas` networks of one width.

    Replica r depends only on `seed`, `width` and r: not on how many were drawn, in which order,
    or in which blocks.
    """

    samples: Sample
    """With a leading axis over replicas; so has `status`, one for each network and layer."""
    width: int
    seed: int
    explicit_weights: bool = True
    """Whether weight matrices were drawn."""

    @property
    def replicas(self) -> int:
        return self.samples.moments.log_gain.shape[0]


def _sample_block(network, inputs, key, indices, width, gradients, explicit_weights, precision):
    def one(index):
        return sample_network(
            network,
            inputs,
            key=jax.random.fold_in(key, index),
            width=width,
            gradients=gradients,
            explicit_weights=explicit_weights,
            precision=precision,
        )

    return jax.lax.map(one, indices)


def in_blocks(
    block_fn: Callable, replicas: int, block: int, progress: Report | None, what: str = "networks"
) -> Any:
    """Run `block_fn(indices)` over all replicas and join the results; `what` is reported.

    Blocks have one shape, so that one compilation serves all. On a CPU one block runs on every
    core, since one network keeps only one core busy. LAPACK is restricted to one thread meanwhile:
    its own threads would wait for each other. None of this affects the result.
    """
    block = min(block, replicas)
    starts = range(0, replicas, block)
    pieces: list[Any] = []
    count = counter(progress, what, replicas)
    count(0)

    def run(start):
        return jax.tree.map(np.asarray, block_fn(jnp.arange(start, start + block)))

    workers = cores() if device_of().platform == "cpu" else 1
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        for start, piece in zip(starts, pool.map(run, starts), strict=True):
            pieces.append(piece)
            count(min(start + block, replicas))
    return jax.tree.map(lambda *xs: jnp.asarray(np.concatenate(xs)[:replicas]), *pieces)


def default_block(replicas: int, entries: int) -> int:
    """Replicas per compiled call: about a second of work, so that progress can be shown."""
    return max(1, min(-(-replicas // cores()), int(1e8 / entries) or 1))


def sample_ensemble(
    network: Part,
    inputs: Float[Array, "n width_in k"],
    *,
    width: int,
    replicas: int,
    seed: int = 0,
    gradients: bool = False,
    explicit_weights: bool | None = None,
    block: int | None = None,
    precision: str = "highest",
    progress: Report | None = None,
) -> Ensemble:
    """Measure `replicas` independent networks of one width.

    Parameters
    ----------
    network
        The description.
    inputs
        Shape [inputs, width_in, components], the same for every network; its dtype is that
        of the simulation.
    width, replicas
        Units per layer, and number of networks; at least 1 and 2.
    seed
        Decides every draw.
    gradients
        Also measure the growth of gradients from layer to layer, at about three times the cost.
    explicit_weights
        True to draw every weight; False to draw only the products of weights and signals, which
        has the same law at a cost proportional to the width rather than its square (see
        `sample_network`). By default the cheaper way from 1025 units on;
        `Ensemble.explicit_weights` records the choice.
    block
        Networks per compiled call. It changes no bit of the result.
    precision
        As in `sample_network`.
    progress
        Called with a `theory.numerics.Progress` before the first block and after each.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        If an argument is out of range. The message names the argument and its allowed range.
    """
    planned = _planned(
        network, inputs, width, replicas, seed, gradients, explicit_weights, block, precision
    )
    return planned.drawn(progress)


def sample_ensembles(
    network: Part,
    inputs: Float[Array, "n width_in k"],
    *,
    widths: Sequence[int],
    replicas: Sequence[int],
    seed: int,
    gradients: bool,
    explicit_weights: bool | None,
    progress: Report | None,
    beside: Iterable[tuple[Any, tuple]] = (),
) -> list[Ensemble]:
    """`sample_ensemble` for several widths, with all programs compiled side by side.

    `beside` are further programs to compile at the same time.
    """
    plans = [
        _planned(network, inputs, width, count, seed, gradients, explicit_weights, None, "highest")
        for width, count in zip(widths, replicas, strict=True)
    ]
    compile_side_by_side([*beside, *(plan.program for plan in plans)])
    return [plan.drawn(progress) for plan in plans]


class _Planned(NamedTuple):
    """An ensemble with checked arguments, not drawn yet."""

    network: Part
    inputs: Array
    key: Array
    width: int
    replicas: int
    seed: int
    gradients: bool
    explicit_weights: bool
    block: int
    precision: str

    def call(self, rows: Array) -> tuple[Any, tuple]:
        """The program that draws these networks, and its arguments."""
        how = (self.width, self.gradients, self.explicit_weights, self.precision)
        given = (self.network, self.inputs, self.key, rows, *how)
        return compiled(_sample_block, plain_options), given

    @property
    def program(self) -> tuple[Any, tuple]:
        return self.call(jnp.arange(self.block))

    def drawn(self, progress: Report | None) -> Ensemble:
        def run(rows):
            sample, given = self.call(rows)
            return sample(*given)

        samples = in_blocks(
            run, self.replicas, self.block, progress, f"networks of width {self.width}"
        )
        return Ensemble(samples, self.width, self.seed, self.explicit_weights)


def _planned(
    network: Part,
    inputs: Any,
    width: int,
    replicas: int,
    seed: int,
    gradients: bool,
    explicit_weights: bool | None,
    block: int | None,
    precision: str,
) -> _Planned:
    check_part("network", network)
    check_count("width", width)
    check_count("replicas", replicas, 2)
    check_seed(seed)
    check_flag("gradients", gradients)
    check_explicit(explicit_weights)
    check_precision(precision)
    if block is not None:
        check_count("block", block)
    layers = outer_depth(network)
    key = jax.random.fold_in(jax.random.key(seed), width)
    inputs = sampled_inputs(inputs)
    check_finite("inputs", inputs)
    network = cast(network, inputs.dtype)
    columns = 2 * len(inputs) * inputs.shape[-1]
    explicit_weights = draws_matrices(explicit_weights, width, columns, network)
    if explicit_weights and width > MOST_WITH_MATRICES:
        raise ValueError(
            f"`width`: must be at most {MOST_WITH_MATRICES} with explicit weights, which are then "
            f"2³¹ numbers per layer; got {width}"
        )
    # Random numbers per layer; the QR factorisation of signals and tangents counts as some more.
    entries = width**2 if explicit_weights else width * (2 * len(inputs)) ** 2 * 4
    block = min(block or default_block(replicas, entries * max(layers, 1)), replicas)
    return _Planned(
        network, inputs, key, width, replicas, seed, gradients, explicit_weights, block, precision
    )
