"""Phase diagrams: predictions over any parameters of a description."""

import dataclasses
import functools
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lazy_loader
import numpy as np

from theory.description import Part, Pointwise, components
from theory.numerics import (
    Estimate,
    Report,
    Status,
    as_real,
    check_flag,
    check_kind,
    check_positive,
    compiled,
    cores,
    counter,
    hasty_options,
    light_options,
    needs_float64,
)
from theory.phases._attractor import Attractor, attractor
from theory.phases._one_layer import LengthPoint
from theory.phases._prediction import (
    Phase,
    Prediction,
    at_length,
    complete,
    is_allowed,
    phase_of,
    settled,
)
from theory.phases._symmetry import SymmetryPhase, sectors, symmetry_phase_of

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_loader.load("xarray")  # takes a second, which single predictions can save

_WHAT = "points of the diagram"
_BLOCK = 512
"""Points per compiled call; one call runs on each core."""
_ORDERS = ((10.0, 32), (1e2, 40), (1e4, 48), (np.inf, 64))
"""Largest length, and the nodes per panel that give 1e-10 up to it (docs/precision)."""

_KINKED = 48
"""Nodes per panel that give 1e-10 if panels end at kinks."""

_FEW = 16
"""Components up to which 40 nodes per panel give 1e-10 for radial integrals, at any length."""

QUANTITIES = {
    "length": "length q* per real component",
    "slope": "slope χ at q*",
    "correlation": "correlation c* of two inputs",
    "separation": "1 − c*",
    "multiplier": "multiplier dq'/dq at q*",
    "correlation_slope": "slope of the correlation map at c*",
    "depth_scale_length": "depth scale ξ_q in layers",
    "depth_scale_correlation": "depth scale ξ_c in layers",
}


def _reach(build, points, start, tolerance):
    """The limit of the length at every point of a block."""
    one = lambda point: attractor(build(**point), start=start, tolerance=tolerance)
    return jax.vmap(one)(points)


def _finish(build, points, reached, tolerance, order):
    """Predictions, given the limit of the length."""

    # One point after the other: its integrals stay in cache, and no point waits for another.
    def one(each):
        point, there = each
        return complete(build(**point), there, tolerance, order)

    return jax.lax.map(one, (points, reached))


_MANY = 4096
"""Points beyond which it pays to compile with full optimisation."""


def phase_diagram(
    build: Callable[..., Part],
    axes: Mapping[str, Any],
    *,
    start: float = 1.0,
    tolerance: float = 1e-10,
    correlations: bool = True,
    progress: Report | None = None,
) -> "xr.Dataset":
    """Mean-field predictions over a grid of two (or one, or more) parameters.

    Parameters
    ----------
    build
        Builds one layer from the parameters, which are passed by keyword as scalars:
        ``lambda weight_variance, bias_variance: layer(phi, weight_variance, bias_variance)``.
        Any parameter can be an axis, including parameters of an activation. Reuse one function
        object for several diagrams: each new one is compiled.
    axes
        Values of each parameter, one-dimensional.
    start
        Length of the typical input.
    tolerance
        Relative error beyond which a value is INACCURATE.
    correlations
        False leaves out c* and ξ_c and all their integrals over two variables. Phase, q*, χ, λ
        and ξ_q then take a twentieth of the time.
    progress
        Called with a `theory.numerics.Progress` that counts points; first with 0 while programs
        compile, which leaves a processor to other threads.

    Returns
    -------
    xarray.Dataset
        For each quantity of `predict` a value, `<quantity>_error` and `<quantity>_status`,
        and `phase`, over the axes in the given order. Status and phase are integers whose
        meanings are in `flag_values` and `flag_meanings`. A point that is out of range, or not
        found, has a status and NaN; it never affects the others.

    Raises
    ------
    ValueError
        If an axis is empty, not one-dimensional or not a parameter of `build`; if `start` or
        `tolerance` is not above 0.
    TypeError
        If `build` is not a function, `axes` not a mapping, or the result of `build` not one
        layer.
    """
    needs_float64("phase_diagram")
    check_flag("correlations", correlations)
    grids, flat = _grid(build, axes, start, tolerance, progress)
    how = _as_arrays(start, tolerance)
    if correlations:
        prediction = _over_blocks(build, flat, how[0], how[1], progress)
        found = {name: getattr(prediction, name) for name in QUANTITIES}
        phase = prediction.phase
    else:
        lengths = compiled(_lengths, light_options)
        run = lambda points: lengths(build, points, *how)
        found, phase = _in_blocks(flat, run, progress)
    names = {name: text for name, text in QUANTITIES.items() if name in found}
    dataset = _as_dataset(found, names, grids, start, tolerance)
    return _with_flags(dataset, "phase", phase, Phase)


SECTOR_QUANTITIES = {
    "length": "length q* per real component",
    "multiplier": "multiplier dq'/dq at q*",
    "depth_scale_length": "depth scale ξ_q in layers",
    "goldstone": "multiplier λ_A of a relative rotation",
    "trace": "slope χ at q*",
    "symmetric_traceless": "multiplier of a relative shear",
    "depth_scale_goldstone": "depth scale ξ_G of the pseudo-Goldstone modes in layers",
    "order_parameter": "order parameter m = E g(|z|) at q*",
}


def sector_diagram(
    build: Callable[..., Part],
    axes: Mapping[str, Any],
    *,
    start: float = 1.0,
    tolerance: float = 1e-10,
    progress: Report | None = None,
) -> "xr.Dataset":
    """Order parameter and multipliers by sector of equivariant networks, over a grid.

    Everything follows from integrals over one radius, so c* is not computed.

    Parameters
    ----------
    build
        As in `phase_diagram`; it must use radial activations.
    axes, start, tolerance, progress
        As in `phase_diagram`.

    Returns
    -------
    xarray.Dataset
        For each quantity of `sectors`, and for the length, a value, an error and a status;
        `phase`; and `symmetry_phase`: symmetric (q* = 0), broken spontaneously, or broken
        explicitly by a bias.

    Raises
    ------
    ValueError, TypeError
        As `phase_diagram`.
    """
    needs_float64("sector_diagram")
    grids, flat = _grid(build, axes, start, tolerance, progress)
    how = _as_arrays(start, tolerance)
    many = next(iter(flat.values())).size > _MANY
    of_block = compiled(_sectors_of, light_options if many else hasty_options)
    run = lambda points: of_block(build, points, *how)
    found, phase, symmetry_phase = _in_blocks(flat, run, progress)
    dataset = _as_dataset(found, SECTOR_QUANTITIES, grids, start, tolerance)
    dataset = _with_flags(dataset, "phase", phase, Phase)
    return _with_flags(dataset, "symmetry_phase", symmetry_phase, SymmetryPhase)


def _as_arrays(*numbers: float) -> list[jax.Array]:
    """Convert numbers to arrays, so that other numbers do not need another program."""
    return [jnp.asarray(np.asarray(x, float)) for x in numbers]


def _lengths(build, points, start, tolerance):
    def one(point):
        body = build(**point)
        reached = attractor(body, start=start, tolerance=tolerance)
        allowed = is_allowed(body)
        found = settled(at_length(reached, tolerance), allowed)
        return found, phase_of(reached, allowed, tolerance)

    return jax.vmap(one)(points)


def _sectors_of(build, points, start, tolerance):
    def one(point):
        body = build(**point)
        order = 40 if components(body) <= _FEW else 64
        reached = attractor(body, start=start, tolerance=tolerance, order=order)
        allowed = is_allowed(body)
        length = reached.point.length
        split = sectors(body, length, tolerance=tolerance, order=order)
        found = at_length(reached, tolerance)
        found |= {f.name: getattr(split, f.name) for f in dataclasses.fields(split)}
        phase = phase_of(reached, allowed, tolerance)
        return settled(found, allowed), phase, symmetry_phase_of(body, length, allowed)

    return jax.vmap(one)(points)


def _grid(
    build: Any, axes: Any, start: float, tolerance: float, progress: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Check everything; return the axes, and all their combinations in one row."""
    function = None if isinstance(build, type) else build
    must = "a function that makes one layer, as theory.layer does"
    check_kind("build", function, Callable, must)
    check_kind("axes", axes, Mapping, "a mapping from parameters of `build` to their values")
    _check_names(build, axes)
    check_positive("start", start)
    check_positive("tolerance", tolerance)
    if progress is not None:
        check_kind("progress", progress, Callable, "a function of a `theory.numerics.Progress`")
    grids = {}
    for name, values in axes.items():
        grid = np.asarray(as_real(name, values), dtype=float)
        if grid.ndim != 1 or grid.size == 0:
            raise ValueError(
                f"`{name}`: an axis must be one-dimensional and not empty; got shape {grid.shape}"
            )
        grids[name] = grid
    if not grids:
        raise ValueError("`axes`: must name at least one parameter; got none")
    made = eqx.filter_eval_shape(build, **{name: jnp.zeros(()) for name in grids})
    check_kind("build", made, Part, "a function that returns one layer, as theory.layer makes it")
    mesh = np.meshgrid(*grids.values(), indexing="ij")
    return grids, {name: values.ravel() for name, values in zip(grids, mesh, strict=True)}


def _check_names(build: Callable, axes: Mapping) -> None:
    """Raise a `ValueError` unless the axes are the parameters of `build`."""
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # no signature: not written in Python
        return
    try:
        signature.bind(**axes)
    except TypeError:
        names = ", ".join(signature.parameters)
        raise ValueError(
            f"`axes`: must name the parameters of `build`, {names}; got {', '.join(map(str, axes))}"
        ) from None


def _block_of(flat: Mapping[str, np.ndarray], first: int, block: int) -> dict[str, jax.Array]:
    # The last block is padded with its last point, so that all blocks have one shape.
    size = next(iter(flat.values())).size
    index = np.minimum(np.arange(first, first + block), size - 1)
    return {name: jnp.asarray(values[index]) for name, values in flat.items()}


def _in_blocks(flat: Mapping[str, np.ndarray], run: Callable, progress: Any) -> Any:
    """Apply `run` to all points, block by block, two at a time."""
    size = next(iter(flat.values())).size
    block = min(_BLOCK, size)
    starts = range(0, size, block)
    one = lambda first: jax.tree.map(np.asarray, run(_block_of(flat, first, block)))
    count = counter(progress, _WHAT, size)
    count(0)
    first = one(starts[0])
    with ThreadPoolExecutor(cores()) as pool:
        return _joined(first, pool.map(one, starts[1:]), size, count)


def _joined(first: Any, rest: Iterable[Any], size: int, count: Callable[..., None]) -> Any:
    """Join the blocks, counting points as they arrive."""
    pieces = []
    for piece in itertools.chain([first], rest):
        pieces.append(piece)
        count(min(len(pieces) * min(_BLOCK, size), size))
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:size], *pieces)


def _over_blocks(build, flat, start, tolerance, progress) -> Prediction:
    size = next(iter(flat.values())).size
    block = min(_BLOCK, size)
    starts = range(0, size, block)

    points = functools.partial(_block_of, flat, block=block)
    many = size > _MANY
    find = compiled(_reach, light_options if many else hasty_options)
    complete_from = compiled(_finish, None if many else light_options)

    def reach(first):
        return jax.block_until_ready(find(build, points(first), start, tolerance))

    shapes = {name: jnp.zeros(()) for name in flat}
    kinked = _has_kinks(eqx.filter_eval_shape(build, **shapes))

    def finish(first, there, order):
        done = complete_from(build, points(first), there, tolerance, order)
        return jax.tree.map(np.asarray, done)

    with ThreadPoolExecutor(cores()) as pool:
        # Both programs compile side by side, the second one at the order that most diagrams need;
        # blocks run in the same way.
        likely = max(_ORDERS[0][1], _KINKED if kinked else 0)
        one, nowhere = points(starts[0]), _nowhere(block)
        ahead = pool.submit(complete_from.lower(build, one, nowhere, tolerance, likely).compile)
        now = pool.submit(find.lower(build, one, start, tolerance).compile)
        count = counter(progress, _WHAT, size)
        count(0)
        importlib.import_module("xarray")  # takes a second
        now.result()
        reached = [reach(starts[0]), *pool.map(reach, starts[1:])]
        longest = max(map(_longest, reached))
        order = next(order for bound, order in _ORDERS if longest <= bound)
        order = max(order, _KINKED if kinked else 0)
        ahead.result()
        first = finish(starts[0], reached[0], order)
        rest = pool.map(functools.partial(finish, order=order), starts[1:], reached[1:])
        return _joined(first, rest, size, count)


def _longest(reached: Attractor) -> float:
    """The longest length at which a correlation is solved for: where χ may be above 1."""
    q, chi = np.asarray(reached.point.length.value), reached.point.slope
    open_ = np.isfinite(q) & ~(np.asarray(chi.value) + np.asarray(chi.error) < 1)
    return np.max(q[open_], initial=0.0)


def _nowhere(block: int) -> Attractor:
    """A result of `_reach` that needs no further computation."""
    # Built by NumPy: the first JAX operation on any new shape compiles.
    one = jnp.asarray(np.ones(block))
    estimate = Estimate(one, one, jnp.asarray(np.zeros(block, np.int8)))
    fate = jnp.asarray(np.zeros(block, np.int8))
    return Attractor(LengthPoint(estimate, estimate, estimate), fate)


def _has_kinks(body: Part) -> bool:
    nodes = jax.tree.leaves(body, is_leaf=lambda node: isinstance(node, Pointwise))
    return any(node.activation.places for node in nodes if isinstance(node, Pointwise))


def _flags(members: Any) -> dict[str, Any]:
    return {
        "flag_values": [int(m) for m in members],
        "flag_meanings": " ".join(m.name.lower() for m in members),
    }


def _as_dataset(
    found: Mapping[str, Estimate], names: Mapping[str, str], grids, start, tolerance
) -> "xr.Dataset":
    dims, shape = tuple(grids), tuple(grid.size for grid in grids.values())
    dataset = xr.Dataset(coords=grids, attrs={"start_length": start, "tolerance": tolerance})
    for name, long_name in names.items():
        estimate = found[name]
        columns = {
            name: (estimate.value, {"long_name": long_name}),
            f"{name}_error": (
                estimate.error,
                {"long_name": f"estimated absolute error of {name}"},
            ),
            f"{name}_status": (estimate.status, _flags(Status)),
        }
        for column, (values, attrs) in columns.items():
            dataset[column] = (dims, np.asarray(values).reshape(shape), attrs)
    return dataset


def _with_flags(dataset: "xr.Dataset", name: str, values: Any, members: Any) -> "xr.Dataset":
    shape = tuple(dataset.sizes.values())
    dataset[name] = (tuple(dataset.sizes), np.asarray(values).reshape(shape), _flags(members))
    return dataset
