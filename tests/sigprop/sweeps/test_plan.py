"""Plans of networks: what a pilot says against closed forms, and what is planned against done."""

import dataclasses
import json
import math

import numpy as np
import pytest

import sigprop
from sigprop import Sweep
from sigprop.commands import _cli
from sigprop.sweeps import _plan
from tests.tolerances import FOLD, SINGLE

# Of a linear network the length is known at every width: with no bias the mean is exact, and
# q_L/q_0 is a product of L + 1 independent factors χ²_N/N, so that its variance is
# (1 + 2/N)^(L + 1) − 1.
LINEAR = Sweep(activation="linear", weight_variance=1.0, bias_variance=0.0, depth=4)


@pytest.fixture(autouse=True, scope="module")
def pilots_of_one_size():
    """So that the numbers of a plan do not depend on how busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_plan, "_PILOT_SECONDS", 1e9)
        patch.setattr(_plan, "_MOST", 1024)
        yield


@pytest.fixture(scope="module")
def planned(pilots_of_one_size):
    return sigprop.plan(LINEAR, "length", 0.01)


@pytest.mark.slow
def test_pilot_against_the_exact_law(planned):
    pilot = planned.pilot
    assert pilot.theory == pytest.approx(1.0, rel=SINGLE)
    width = pilot.widths[-1]
    exact = ((1 + 2 / width) ** 5 - 1) * width
    # The variance of a sample variance, for kurtosis up to 6.
    allowed = 5 * math.sqrt(5 / pilot.replicas)
    assert abs(pilot.variance / exact - 1) < allowed
    assert abs(pilot.bias) < 5 * pilot.bias_error
    assert pilot.chi_square < 25  # two degrees of freedom


def test_plan_keeps_its_law(planned):
    p = planned
    assert p.standard_error == pytest.approx(
        math.sqrt(p.pilot.variance / (p.width * p.replicas)), rel=FOLD
    )
    total = math.hypot(abs(p.bias) + p.pilot.bias_error / p.width, p.standard_error)
    assert p.reached
    assert 0.9 * p.error < total <= p.error or p.replicas == 16
    assert p.sweep.width == p.width
    assert p.sweep.replicas == p.replicas >= 16
    assert p.seconds > 0
    assert p.memory > 4 * 2 * p.width


def test_planned_against_obtained(planned, tmp_path):
    run = sigprop.run_sweep(planned.sweep, tmp_path / "plan.zarr")
    found = sigprop.outcome(planned, run, tmp_path / "plan.zarr")
    spread = 5 / math.sqrt(planned.replicas) + 5 / math.sqrt(planned.pilot.replicas)
    assert found.standard_error == pytest.approx(found.planned_standard_error, rel=spread)
    assert abs(found.deviation) < 5 * found.standard_error
    # The standard error is a sample's, and may come out above the wanted error.
    obtained = math.hypot(planned.bias, found.standard_error)
    assert found.reached == (obtained <= planned.error)
    assert obtained < (1 + spread) * planned.error
    # The exact error, and one that a plan 3 % wrong in N·R at 20 times the networks would miss.
    exact = math.sqrt(((1 + 2 / planned.width) ** 5 - 1) / planned.replicas)
    assert planned.standard_error == pytest.approx(exact, rel=5 / math.sqrt(planned.pilot.replicas))


@pytest.mark.slow
def test_bias_that_no_number_of_networks_removes():
    """relu's correlation at criticality: 1/N terms grow with depth over width."""
    sweep = dataclasses.replace(LINEAR, activation="relu", weight_variance=2.0, depth=8)
    found = sigprop.plan(sweep, "correlation", 1e-4, width=16)
    assert not found.reached
    assert found.dominates == "1/N bias"
    pilot = found.pilot
    assert abs(pilot.bias) > 3 * pilot.bias_error
    other = _plan._cheapest(found.sweep, pilot, 0.1, 16, {False: lambda n: 1.0}, 2)
    assert other[1] >= 16
    # Halving the wanted error takes at least four times the networks, or a larger width.
    one, two = (
        _plan._cheapest(found.sweep, pilot, e, None, {False: float}, 2) for e in (0.02, 0.01)
    )
    assert two[0] * two[1] > 3 * one[0] * one[1]


@pytest.mark.parametrize(
    "change, error, width, message",
    [
        ({"weight_variance": (1.0, 2.0)}, 0.1, None, "`sweep`: must be one point; got axes weight"),
        (
            {"weights": "sparse:0.1"},
            0.1,
            None,
            "`sweep`: must have weights that .*; got sparse:0.1",
        ),
        ({}, 0.0, None, "`error`: must be finite and above 0"),
        ({}, 0.1, 0, "`width`: must be a whole number from 1 to"),
    ],
)
def test_bad_values(change, error, width, message):
    with pytest.raises(ValueError, match=message):
        sigprop.plan(dataclasses.replace(LINEAR, **change), "length", error, width=width)


def test_errors_out_of_reach():
    pilot = _plan.Pilot((32,), 64, (1.0,), (0.1,), 1.0, 50.0, 1.0, 0.0, 10.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"`error`: must be above 4.9e-05, the bias at width"):
        _plan._cheapest(LINEAR, pilot, 1e-6, None, {False: float}, 2)


def test_times_are_fitted_without_negative_terms():
    model = _plan._fit(np.array([10.0, 20.0, 40.0]), np.array([1.0, 4.0, 16.0]), 2)
    assert model(80) == pytest.approx(64.0, rel=FOLD)
    flat = _plan._fit(np.array([10.0, 20.0, 40.0]), np.array([3.0, 3.0, 2.9]), 2)
    assert 2.8 < flat(10**6) < 3.1


@pytest.mark.slow
def test_command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ["plan", "--activation", "linear", "--weight-variance", "1", "--bias-variance", "0"]
    argv += ["--depth", "4", "--observable", "length", "--error", "0.02", "--run", "--json"]
    assert _cli.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["reached"]
    assert found["outcome"]["standard_error"] < 0.04
    assert sigprop.sweep_status("runs/plan.zarr").done == found["plan"]["replicas"]
    bad = [*argv[: argv.index("--error")], "--error", "-1"]
    assert _cli.main(bad) == 2
    assert capsys.readouterr().err == "sigprop: --error: must be finite and above 0; got -1.0\n"
    bad = [a if a != "length" else "lenght" for a in argv]
    assert _cli.main(bad) == 2
    assert "--observable: must be some of length" in capsys.readouterr().err
