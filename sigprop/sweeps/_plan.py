"""Choosing width and replicas: the cheapest networks that reach a given precision.

Notation: over networks of width N an observable has the mean y + b/N, the variance s/N, and a
cost of t seconds. The mean square error of R networks is (b/N)² + s/(N R).
"""

import dataclasses
import math
import resource
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from sigprop.networks import memory_limit, needs_matrices
from sigprop.sweeps._ratios import PARTS, influences
from sigprop.sweeps._sweep import Sweep
from sigprop.sweeps._sweep_program import Engine
from sigprop.sweeps._sweep_run import SHARE, SweepRun, own_mesh
from sigprop.sweeps._sweep_summary import summarise_sweep, sweep_theory
from theory import Observable
from theory.mean_field import chosen_observables
from theory.numerics import Report, check_count, check_kind, check_positive, cores, counter, renamed

MOST_WIDTH = 2**20
"""Largest width that a plan may choose."""
_REPLICAS = (16, 10**7)
"""Fewest and most replicas: fewer would not determine their own standard error."""
_PILOT_SECONDS = 8.0
_FEWEST, _MOST = 64, 4096
"""Networks of a pilot at each width."""


class Pilot(NamedTuple):
    """The result of a few small networks."""

    widths: tuple[int, ...]
    replicas: int
    means: tuple[float, ...]
    standard_errors: tuple[float, ...]
    theory: float
    """Theory, at infinite width."""
    bias: float
    """b: the deviation from theory times the width."""
    bias_error: float
    chi_square: float
    """χ² of the fit b/N, with one degree of freedom less than there are widths."""
    variance: float
    """s: the variance over networks times the width."""
    variance_spread: float
    """The largest s of one width over the smallest: near 1 if the law s/N is right."""
    seconds: float
    """Duration of the pilot, including compilation."""


class Plan(NamedTuple):
    """Networks to draw for a given precision, and their cost."""

    sweep: Sweep
    """For `run_sweep`."""
    observable: str
    error: float
    """Requested error: the root mean square of bias and sampling noise together."""
    width: int
    replicas: int
    explicit_weights: bool
    bias: float
    """b/N at this width."""
    standard_error: float
    """Standard error of the mean over these networks."""
    dominates: str
    """ "1/N bias" or "sampling noise": the larger of the two."""
    reached: bool
    """Whether both together stay below the requested error."""
    seconds: float
    """On this device, without compilation."""
    memory: int
    """Bytes."""
    pilot: Pilot


class Outcome(NamedTuple):
    """Planned and obtained precision and cost."""

    value: float
    """The mean over networks."""
    standard_error: float
    planned_standard_error: float
    deviation: float
    """Deviation from theory at infinite width: bias and noise together."""
    planned_bias: float
    seconds: float
    planned_seconds: float
    memory: int
    """Peak memory of the whole process so far, including JAX, in bytes."""
    planned_memory: int
    reached: bool
    """Whether the planned bias and the obtained standard error stay below the requested
    error."""


def plan(
    sweep: Sweep,
    observable: str | Observable,
    error: float,
    *,
    width: int | None = None,
    progress: Report | None = None,
) -> Plan:
    """Choose width and replicas for a given error of an observable in the last layer.

    A pilot draws small networks at three widths, without weight matrices. It times drawing
    without matrices at those widths and at a large one, and with matrices at the outer two. The
    plan is the width at which bias and noise together reach the given error in the least time on
    this device, with at least 16 networks.

    Parameters
    ----------
    sweep
        One point: no axes. The plan replaces its width, replicas, layers and `explicit_weights`.
    observable
        As in `Sweep.observables`, for the first input or pair. If networks measure it through
        gradients, it is evaluated in the last layer but one.
    error
        Requested error, above 0: the root mean square of bias and noise.
    width
        Use this width. The bias is then fixed, and `Plan.reached` may be False.
    progress
        Called with a `theory.numerics.Progress` before each part of the pilot.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If the sweep has axes, or no width up to 2^20 and 10^7 networks reach the error.

    Accuracy
    --------
    The pilot determines b up to `Pilot.bias_error`, which is added to its size in the choice. b/N
    and s/N are leading orders: for widths that are not large compared to the depth,
    `Pilot.variance_spread` and `Pilot.chi_square` show how much they deviate. Times depend on the
    load during the calibration.
    """
    check_kind("sweep", sweep, Sweep, "a sigprop.Sweep")
    say = lambda what: counter(progress, f"plan: {what}", 0)(0)
    if sweep.axes:
        raise ValueError(f"`sweep`: must be one point; got axes {', '.join(sweep.axes)}")
    if needs_matrices(sweep.network(sweep.point(0))):
        raise ValueError(
            "`sweep`: must have weights that can be simulated without matrices, as the pilot of a "
            f"plan is; got {sweep.weights}"
        )
    check_positive("error", error)
    if width is not None:
        check_count("width", width, 1, MOST_WIDTH)
    with renamed(observables="observable"):
        chosen_observables((observable,))
    (record,) = chosen_observables((observable,))
    layer = -2 if record.gradients else -1
    changes: dict[str, Any] = {"observables": (record,), "layers": (layer,)}
    sweep = dataclasses.replace(sweep, **changes)
    start = time.perf_counter()
    workers = cores() if own_mesh().devices.flat[0].platform == "cpu" else 1
    depth = sweep.values("depth")[0]
    base = max(32, 2 ** math.ceil(math.log2(depth + 1)))
    widths = (base, 2 * base, 4 * base)
    sizes = {False: (*widths, 64 * base), True: (widths[0], widths[-1])}
    engines = {
        explicit: _engine(
            dataclasses.replace(sweep, width=size, explicit_weights=explicit), _FEWEST // workers
        )
        for explicit, size in sizes.items()
    }
    say("compiling")
    _compile(engines.values(), workers)
    say("pilot")
    stats = _pilot(sweep, engines[False], widths, workers)
    models = {}
    for explicit, engine in engines.items():
        say("timing with weights" if explicit else "timing without weights")
        models[explicit] = _time_model(engine, sizes[explicit], explicit, workers)
    pilot = stats(time.perf_counter() - start)
    chosen = _cheapest(sweep, pilot, error, width, models, workers)
    number, replicas, explicit, seconds = chosen
    bias, noise = pilot.bias / number, math.sqrt(pilot.variance / (number * replicas))
    planned = dataclasses.replace(sweep, width=number, replicas=replicas, explicit_weights=explicit)
    say("memory")
    memory = workers * _engine(planned, min(replicas, 8)).program(0).memory
    total = math.hypot(abs(bias) + pilot.bias_error / number, noise)
    return Plan(
        planned,
        record.name,
        error,
        number,
        replicas,
        explicit,
        bias,
        noise,
        "1/N bias" if abs(bias) > noise else "sampling noise",
        total <= error * (1 + 1e-9),
        seconds,
        memory,
        pilot,
    )


def outcome(plan: Plan, run: SweepRun, path: Any) -> Outcome:
    """Compare the run of a plan with the plan.

    Parameters
    ----------
    plan, run, path
        The plan, what `run_sweep` returned for its sweep, and the store.
    """
    check_kind("plan", plan, Plan, "a Plan, from sigprop.plan")
    check_kind("run", run, SweepRun, "a SweepRun, from sigprop.run_sweep")
    found = summarise_sweep(path)
    if plan.observable not in found:
        raise ValueError(f"`path`: must be the store of the plan's sweep; got {path}")
    at = {"layer": 0, plan.sweep.record(plan.observable).dimension: 0}
    value = float(found[plan.observable].isel(at))
    error = float(found[f"{plan.observable}_standard_error"].isel(at))
    return Outcome(
        value,
        error,
        plan.standard_error,
        value - plan.pilot.theory,
        plan.bias,
        run.seconds,
        plan.seconds,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        plan.memory,
        math.hypot(plan.bias, error) <= plan.error,
    )


def _engine(sweep: Sweep, most: int) -> Engine:
    return Engine(sweep, own_mesh(), most)


def _drawn(engine: Engine, point: int, first: int, count: int, workers: int) -> dict[str, Any]:
    """Networks of one point, drawn by all workers at once as in a run."""
    parts = [part for part in np.array_split(np.arange(first, first + count), workers) if len(part)]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda own: engine.run(np.full(len(own), point), own), parts))
    return {name: np.concatenate([piece[name] for piece in found]) for name in found[0]}


def _contributions(sweep: Sweep, found: dict[str, np.ndarray]) -> np.ndarray:
    """One number per network, whose mean is the observable of the first input or pair."""
    (record,) = sweep.records
    if not record.ratio_of_means:
        return np.asarray(found[record.name][:, 0, 0], np.float64)
    parts = [np.asarray(found[name], np.float64) for name in PARTS]
    value, each = influences(record, *parts, *(part.mean(axis=0) for part in parts))
    return (value + each)[:, 0, 0]


def _compile(engines: Iterable[Engine], workers: int) -> None:
    """Compile the programs of all points, side by side."""
    jobs = [(engine, point) for engine in engines for point in range(engine.sweep.points)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda job: job[0].program(job[1]), jobs))


def _pilot(
    sweep: Sweep, engine: Engine, widths: tuple[int, ...], workers: int
) -> Callable[[float], Pilot]:
    """Draw networks at the first points of the engine, which have these widths."""
    start = time.perf_counter()
    first = [_drawn(engine, i, 0, _FEWEST, workers) for i in range(len(widths))]
    rounds = _PILOT_SECONDS / max(time.perf_counter() - start, 1e-9)
    more = min(_MOST - _FEWEST, int(_FEWEST * (rounds - 1)))
    if more > 0:
        rest = [_drawn(engine, i, _FEWEST, more, workers) for i in range(len(widths))]
        first = [
            {name: np.concatenate([one[name], two[name]]) for name in one}
            for one, two in zip(first, rest, strict=True)
        ]
    each = [_contributions(sweep, found) for found in first]
    replicas = len(each[0])
    size = np.array(widths, float)
    means = np.array([np.mean(x) for x in each])
    spread = np.array([np.var(x, ddof=1) for x in each])
    expected = float(sweep_theory(sweep, sweep.records[0].name, sweep.point(0))[0, 0])
    noise = np.maximum(np.sqrt(spread / replicas), np.finfo(sweep.dtype).eps * abs(expected))
    # Least squares of mean − theory = b/N.
    weight = 1 / (size * noise) ** 2
    bias = float(np.sum((means - expected) / (size * noise**2)) / np.sum(weight))
    chi_square = float(np.sum(((means - expected - bias / size) / noise) ** 2))
    scaled = spread * size
    if not np.all(np.isfinite(means)):
        raise ValueError(
            "`observable`: must be finite; got an overflow, or lost digits, in the pilot"
        )
    return lambda seconds: Pilot(
        widths,
        replicas,
        tuple(map(float, means)),
        tuple(map(float, noise)),
        expected,
        bias,
        float(np.sum(weight) ** -0.5),
        chi_square,
        float(scaled[-1]),
        float(scaled.max() / max(scaled.min(), 1e-300)),
        seconds,
    )


def _time_model(
    engine: Engine, widths: tuple[int, ...], explicit: bool, workers: int
) -> Callable[[float], float]:
    """Seconds per network, with all workers at once, as a polynomial of the width."""
    times = []
    for point in range(len(widths)):
        _drawn(engine, point, 0, workers, workers)
        taken, count = [], workers
        while sum(taken) < 0.3 and len(taken) < 12:
            start = time.perf_counter()
            _drawn(engine, point, 0, count, workers)
            taken.append((time.perf_counter() - start) / count)
            count = min(4 * workers, 2 * count)
        times.append(min(taken))
    return _fit(np.array(widths, float), np.array(times), 2 if explicit else 1)


def _fit(widths: np.ndarray, times: np.ndarray, power: int) -> Callable[[float], float]:
    """Fit a + c N^power, no term negative, by relative errors, since times differ by decades."""
    table = np.stack([np.ones_like(widths), widths**power], axis=1) / times[:, None]
    fits = []
    for terms in ([0, 1], [1], [0]):
        coefficients = np.zeros(2)
        coefficients[terms] = np.linalg.lstsq(table[:, terms], np.ones(len(times)))[0]
        if np.all(coefficients >= 0):
            fits.append((float(np.sum((table @ coefficients - 1) ** 2)), *coefficients.tolist()))
    _, constant, slope = min(fits)
    return lambda width: constant + slope * float(width) ** power


def _cheapest(
    sweep: Sweep,
    pilot: Pilot,
    error: float,
    width: int | None,
    models: dict[bool, Callable[[float], float]],
    workers: int,
) -> tuple[int, int, bool, float]:
    """Width, replicas, whether with weights, and seconds."""
    room = SHARE * memory_limit() / workers
    item = np.dtype(sweep.dtype).itemsize
    grid = [width] if width else sorted({round(2 ** (k / 2)) for k in range(8, 41)})
    found = []
    for number in grid:
        bias = (abs(pilot.bias) + pilot.bias_error) / number
        left = error**2 - bias**2
        if left <= 0:
            if width is None:
                continue
            left = error**2  # no number of networks reduces the bias
        replicas = max(_REPLICAS[0], math.ceil(pilot.variance / (number * left)))
        for explicit, model in models.items():
            # A drawn matrix, its random bits and its intermediate results.
            fits = 4 * item * number**2 < room if explicit else True
            if fits and replicas <= _REPLICAS[1]:
                found.append((replicas * model(number), number, replicas, explicit))
    if not found:
        least = (abs(pilot.bias) + pilot.bias_error) / max(grid)
        raise ValueError(
            f"`error`: must be above {least:.2g}, the bias at width {max(grid)}, and within reach "
            f"of {_REPLICAS[1]} networks; got {error:g}"
        )
    seconds, number, replicas, explicit = min(found)
    return number, replicas, explicit, seconds
