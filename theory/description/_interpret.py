"""The one fold that reads a description.

Everything that is computed from a description is a `Reading`: what the leaves of the description
do to one kind of state. `interpret` is the only function that knows the node types.
"""

import abc
from collections.abc import Callable
from typing import Any, Generic, TypeVar, assert_never

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from theory.description._nodes import (
    Affine,
    Chain,
    Noise,
    Normalise,
    Part,
    Pointwise,
    Recurrent,
    Repeat,
    Residual,
    check_part,
)
from theory.numerics import check_kind, scan, shown, traced, xp

State = TypeVar("State")


class Stacked(eqx.Module):
    """The notes of a `Repeat`: those of its body, with a leading depth axis on every leaf."""

    notes: Any


class Reading(eqx.Module, Generic[State]):
    """What the leaves of a description do to one kind of state.

    Every method for a node returns (state, note). A note is a pytree, or None. The notes of the
    whole network mirror its description: a tuple for a `Chain`, the pair (notes of the branch,
    note of the sum) for a `Residual`, `Stacked` for a `Repeat`, and one note for all steps of a
    `Recurrent`.
    """

    @abc.abstractmethod
    def affine(self, node: Affine, state: State) -> tuple[State, Any]:
        """z = W x + b."""

    @abc.abstractmethod
    def pointwise(self, node: Pointwise, state: State) -> tuple[State, Any]:
        """φ."""

    @abc.abstractmethod
    def normalise(self, node: Normalise, state: State) -> tuple[State, Any]:
        """(x − m)/√(v + ε)."""

    @abc.abstractmethod
    def noise(self, node: Noise, state: State) -> tuple[State, Any]:
        """x (1 + √v g), with fresh g."""

    @abc.abstractmethod
    def add(self, skip: State, branch: State) -> tuple[State, Any]:
        """h + branch(h), where the branch ends in a fresh `Affine`.

        If the two states are of different kinds, the sum has the kind of the skip connection.
        """

    @abc.abstractmethod
    def through_time(self, step: Callable, state: State, steps: int, /) -> tuple[State, Any]:
        """All steps of a `Recurrent`: maps the drives of all steps to the states of all steps.

        ``step(reading, state, drive)`` interprets the body once and adds the drive. It returns
        the state of the next step and its notes, laid out as those of a residual branch. A
        reading of the structure alone has no time axis and takes one step.
        """

    def child(self, index: int) -> "Reading[State]":
        """The reading for the part at position `index` of a chain."""
        return self

    def inside_branch(self) -> "Reading[State]":
        """The reading inside a residual branch."""
        return self

    def layers(self, depth: int) -> "Reading[State]":
        """The readings of `depth` layers of a `Repeat`, stacked along a leading axis."""
        return self

    def boundary(self, state: State) -> State:
        """The state at the end of one layer of a `Repeat`."""
        return state

    def kept(self, before: State, after: State) -> State:
        """The state after one layer of a `Repeat`, as the kind that entered if possible."""
        return after

    def loop(self, layer: Callable, state: State, layers: Any, depth: int, /) -> tuple[State, Any]:
        """Run all layers; a scan, so that compile time does not grow with depth."""
        return scan(layer, state, layers, depth)


def interpret(part: Part, reading: Reading[State], state: State) -> tuple[State, Any]:
    """Fold a reading over a description: the state after `part`, and the notes on the way.

    Parameters
    ----------
    part
        The description.
    reading
        What each node does to a state.
    state
        The state that enters.

    Raises
    ------
    TypeError
        If the body of a `Repeat`, or a residual branch, returns another kind or shape of state
        than it takes; or if `part` is not a node.
    ValueError
        If an `Affine` or a `Noise` outside a `Repeat` has variances of several layers.
    """
    check_part("part", part)
    check_kind("reading", reading, Reading, "a Reading")
    match part:
        case Affine():
            _check_one_layer("weight_variance", part.weights.variance)
            _check_one_layer("bias_variance", part.bias_variance)
            return reading.affine(part, state)
        case Pointwise():
            return reading.pointwise(part, state)
        case Normalise():
            return reading.normalise(part, state)
        case Noise():
            _check_one_layer("variance", part.variance)
            return reading.noise(part, state)
        case Chain(parts=parts):
            notes = []
            for index, member in enumerate(parts):
                state, note = interpret(member, reading.child(index), state)
                notes.append(note)
            return state, tuple(notes)
        case Residual(branch=branch):
            inner, notes = interpret(branch, reading.inside_branch(), state)
            if type(inner) is type(state):
                _check_same_kind("a residual branch", state, inner)
            state, note = reading.add(state, inner)
            return state, (notes, note)
        case Repeat(body=body, depth=depth):
            stacked = (body, reading.layers(depth))
            per_layer, structure = eqx.partition(stacked, _is_array)

            def one_layer(carry, leaves):
                layer, layer_reading = eqx.combine(leaves, structure)
                after, note = interpret(layer, layer_reading, carry)
                after = layer_reading.kept(carry, layer_reading.boundary(after))
                _check_same_kind("the body of a Repeat", carry, after)
                return after, note

            state, notes = reading.loop(one_layer, state, per_layer, depth)
            return state, Stacked(notes)
        case Recurrent(body=body, steps=steps):

            def advance(step, previous, drive):
                after, notes = interpret(body, step.inside_branch(), previous)
                _check_same_kind("the body of a Recurrent", previous, after)
                state, note = step.add(drive, after)
                return state, (notes, note)

            return reading.through_time(advance, state, steps)
        case _:
            assert_never(part)


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)


def _check_one_layer(field: str, value: Any) -> None:
    # A network whose arrays were taken out, to be stored elsewhere, has none.
    if value is not None and jnp.ndim(value) > 0:
        raise ValueError(
            f"`{field}`: must be one number, or a schedule inside a Repeat with its depth "
            f"first; got the shape {list(jnp.shape(value))}"
        )


def _check_same_kind(where: str, before: Any, after: Any) -> None:
    """Raise a one-sentence `TypeError` unless two states have one type and equal shapes."""
    states = [jax.tree.leaves_with_path(state) for state in (before, after)]
    if type(before) is not type(after) or len(states[0]) != len(states[1]):
        raise TypeError(
            f"{where} must return the kind of state that it takes; it takes "
            f"{type(before).__name__} and returns {type(after).__name__}"
        )
    for (path, old), (_, new) in zip(*states, strict=True):
        was, is_now = (f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in (old, new))
        if was != is_now:
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "state"
            raise TypeError(
                f"{where} must return the shape of state that it takes; its `{name}` is {was} "
                f"before and {is_now} after"
            )


def along_depth(notes: Any) -> Any:
    """Arrange the notes of a network as one series over depth.

    Parameters
    ----------
    notes
        What `interpret` returned. Nodes that noted nothing (None) are skipped.

    Returns
    -------
    The same kind of note with a leading axis over the nodes that noted something, in order of
    depth; None if there are none.
    """
    for leaf in jax.tree.leaves(notes):
        if not hasattr(leaf, "shape"):
            raise TypeError(f"`notes`: must be what interpret returned; got {shown(leaf)} in it")
    return _along_depth(notes)


def _along_depth(notes: Any) -> Any:
    if notes is None:
        return None
    if isinstance(notes, Stacked):
        if not jax.tree.leaves(notes):
            return None
        if traced(notes.notes):
            inner = eqx.filter_vmap(_along_depth)(notes.notes)
        else:
            layers = range(len(jax.tree.leaves(notes.notes)[0]))
            rows = [jax.tree.map(lambda x, i=i: x[i], notes.notes) for i in layers]
            inner = jax.tree.map(lambda *xs: np.stack(xs), *map(_along_depth, rows))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inner)
    if isinstance(notes, tuple):
        series = [s for s in map(_along_depth, notes) if s is not None]
        if not series:
            return None
        return jax.tree.map(lambda *xs: xp.concatenate(xs), *series)
    return jax.tree.map(lambda x: x[None], notes)
