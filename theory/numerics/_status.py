"""A number with its error and its status."""

import enum
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from theory.numerics._arrays import Array, xp


class Status(enum.IntEnum):
    """How reliable a value is; stored alongside it as an int8 in arrays and data files.

    The order is part of the file format: add new members at the end.
    """

    OK = 0
    """The error is within the requested tolerance."""
    INACCURATE = 1
    """There is a value, but its error is larger than the requested tolerance."""
    INFINITE = 2
    """The quantity diverges: an infinite depth scale, a length without bound."""
    ABSENT = 3
    """There is no such point: no further fixed point, no non-trivial correlation."""
    NOT_CONVERGED = 4
    """The iteration stopped before it reached its tolerance; the error says how far off it is."""
    INVALID = 5
    """The parameters of this point are outside their allowed range."""


class Estimate(eqx.Module):
    """A value, an estimate of its absolute error, and a `Status`, all of one shape.

    `error` is meant as a bound: the true error should be no larger. It is NaN where `value` is.
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    status: Int[Array, "*shape"]


def as_estimate(value: Any, error: Any, tolerance: Any, magnitude: Any = None) -> Estimate:
    """Make an `Estimate` with status OK where error <= tolerance · magnitude, else INACCURATE.

    `magnitude` is |value| by default. A value of +∞ is INFINITE.
    """
    value, error = xp.asarray(value), xp.asarray(error)
    # If the value is finite but its error is NaN, the error may be infinite.
    error = xp.where(xp.isnan(error) & xp.isfinite(value), xp.inf, error)
    magnitude = xp.abs(value) if magnitude is None else magnitude
    good = error <= tolerance * magnitude
    status = xp.where(good, np.int8(Status.OK), np.int8(Status.INACCURATE))
    endless = xp.isposinf(value)
    status = xp.where(endless, np.int8(Status.INFINITE), status)
    error = xp.where(endless, xp.nan, error)
    return Estimate(value, error, xp.broadcast_to(status, value.shape))


def replace_where(condition: Any, status: Status, tree: Any) -> Any:
    """Set the status of all estimates in a tree where `condition` is true; other leaves stay.

    Their value becomes infinite for INFINITE and NaN otherwise, their error NaN. `condition` may
    be a function of the estimate.
    """
    stand_in = xp.inf if status == Status.INFINITE else xp.nan

    def replaced(e: Any) -> Any:
        if not isinstance(e, Estimate):
            return e
        where: Any = condition(e) if callable(condition) else condition
        return Estimate(
            xp.where(where, stand_in, e.value),
            xp.where(where, xp.nan, e.error),
            xp.where(where, np.int8(status), e.status),
        )

    return jax.tree.map(replaced, tree, is_leaf=lambda e: isinstance(e, Estimate))


def choose(condition: Any, these: Any, those: Any) -> Any:
    """Select `these` where `condition` is true, else `those`; two trees of one structure."""
    return jax.tree.map(lambda a, b: xp.where(condition, a, b), these, those)
