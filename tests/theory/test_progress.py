"""Progress of long computations: one kind of message."""

import math

import numpy as np
import pytest

import sigprop
import theory
from tests.tolerances import FOLD
from theory.numerics import Progress, clock, counter


def test_a_line_says_what_is_done_and_left():
    lines = [
        (Progress("networks", 0, 8, 0.0, math.nan), "networks: 0 of 8"),
        (Progress("networks", 2, 8, 1.0, 3.0), "networks: 2 of 8, 3.0 s left"),
        (Progress("networks", 8, 8, 4.0, 0.0), "networks: 8 of 8"),
        (Progress("plan: pilot", 0, 0, 0.0, math.nan), "plan: pilot"),
    ]
    for progress, line in lines:
        assert str(progress) == line


@pytest.mark.parametrize(
    "seconds, text",
    [(math.nan, "unknown"), (9.96, "10.0 s"), (100, "1 min 40 s"), (7260, "2 h 01 min")],
)
def test_a_time_is_said_as_a_person_says_it(seconds, text):
    assert clock(seconds) == text


def test_what_is_left_is_by_the_share_of_the_work():
    seen = []
    count = counter(seen.append, "networks", 4)
    count(0)
    count(1, 0.75)  # one large of four
    count(4)
    assert [(p.done, p.total) for p in seen] == [(0, 4), (1, 4), (4, 4)]
    assert math.isnan(seen[0].remaining)
    assert seen[1].remaining == pytest.approx(seen[1].seconds / 3, rel=FOLD)
    assert seen[2].remaining == 0


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="`progress`: must be a function of a Progress; got True"):
        counter(True, "networks", 4)


def test_diagrams_and_ensembles_report_in_the_same_way():
    seen = []
    build = lambda weight_variance: theory.layer(theory.activation("erf"), weight_variance)
    axes = {"weight_variance": np.linspace(0.5, 3.0, 5)}
    theory.phase_diagram(build, axes, correlations=False, progress=seen.append)
    network = theory.feedforward(theory.activation("erf"), 1.5, depth=1)
    x = np.ones((1, 4, 1))
    sigprop.sample_ensemble(network, x, width=4, replicas=6, block=2, progress=seen.append)
    points, networks = "points of the diagram", "networks of width 4"
    assert {p.what for p in seen} == {points, networks}
    assert [p.done for p in seen if p.what == points] == [0, 5]
    assert [p.done for p in seen if p.what == networks] == [0, 2, 4, 6]
    assert all(isinstance(p, Progress) for p in seen)
