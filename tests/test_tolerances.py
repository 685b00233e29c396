"""Every tolerance takes what it is for and rejects the smallest change that matters."""

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests import tolerances
from tests.tolerances import (
    FOLD,
    LAYER,
    LAYERS,
    LIMIT,
    ROUNDING,
    SINGLE,
    SINGLE_LAYERS,
    SLOPE,
    SOLUTION,
    printed,
    sigmas,
)

RNG = np.random.default_rng(0)
EPS = np.finfo(float).eps


def erf_lengths(depth, dtype=np.float64, variance=1.5):
    """Lengths of an erf network in closed form, layer by layer in a dtype."""
    q = dtype(1.0)
    for _ in range(depth):
        q = dtype(variance) * dtype(2 / np.pi) * np.arcsin(2 * q / (1 + 2 * q)) + dtype(0.1)
    return float(q)


def mean_of_square(nodes):
    """E tanh² of a normal number by Gauss-Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return np.sum(w * np.tanh(x) ** 2) / np.sum(w)


def difference(fn, at, step):
    return (fn(at + step) - fn(at - step)) / (2 * step)


def root(steps):
    """The fixed length of an erf network after so many steps of Newton's method."""
    q, residue = 1.0, lambda q: 1.5 * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + 0.1 - q
    for _ in range(steps):
        q -= residue(q) / difference(residue, q, 1e-6)
    return q


MATRIX = RNG.standard_normal((40, 40))
CASES = {
    # What is right in two ways, and the same with the smallest error that matters.
    "ROUNDING": (3 * (1 / 3 * 0.7), 0.7, 0.7 * (1 + 100 * EPS)),
    "LAYER": (
        erf_lengths(1),
        3 / np.pi * np.arctan(2 / np.sqrt(5)) + 0.1,
        erf_lengths(1) * (1 + 100 * EPS),
    ),
    "LAYERS": (np.sum(MATRIX[0]), sum(MATRIX[0][::-1]), np.sum(MATRIX[0]) * (1 + 1000 * EPS)),
    # A determinant of a matrix that was stored in single precision.
    "FOLD": (
        np.prod(np.linalg.svd(MATRIX, compute_uv=False)),
        abs(np.linalg.det(MATRIX)),
        abs(np.linalg.det(MATRIX.astype(np.float32).astype(float))),
    ),
    "SOLUTION": (root(6), root(7), root(2)),
    "SLOPE": (
        difference(np.tanh, 0.5, 1e-5),
        1 / np.cosh(0.5) ** 2,
        difference(np.tanh, 0.5, 1e-2),
    ),
    "SINGLE": (erf_lengths(1, np.float32), erf_lengths(1), erf_lengths(1, np.float16)),
    "SINGLE_LAYERS": (erf_lengths(20, np.float32), erf_lengths(20), erf_lengths(20, np.float16)),
    # A variance 3 % off, and half as far towards the limit.
    "LIMIT": (erf_lengths(30), root(7), erf_lengths(30, variance=1.5 * 1.03)),
}


def test_every_tolerance_has_a_case():
    named = {name for name in vars(tolerances) if name.isupper()}
    assert named == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_passes_and_a_small_error_does_not(name):
    one, other, wrong = CASES[name]
    rtol = getattr(tolerances, name)
    np.testing.assert_allclose(one, other, rtol=rtol)
    assert abs(wrong / other - 1) > rtol


def test_they_grow_with_what_they_allow():
    double = [ROUNDING, LAYER, LAYERS, FOLD, SOLUTION, SLOPE]
    single = [SINGLE, SINGLE_LAYERS, LIMIT]
    assert double == sorted(double)
    assert double[-1] < single[0]
    assert single == sorted(single)
    assert min(double) > 2 * EPS
    assert min(single) > 2 * np.finfo(np.float32).eps
    # 3 % in a variance is 1.5 % in a size, which no tolerance of a number may hide.
    assert single[-1] < 0.015 / 10


def test_too_few_nodes_are_seen():
    assert abs(mean_of_square(64) / mean_of_square(128) - 1) < SLOPE
    assert abs(mean_of_square(16) / mean_of_square(128) - 1) > SLOPE


def test_printed_digits():
    np.testing.assert_allclose(np.pi, 3.1416, rtol=0, atol=printed(4))
    assert abs(np.pi - 3.1417) > printed(4)
    assert abs(np.pi - 3.1415) > printed(4)


@pytest.mark.parametrize("numbers", [1, 6, 200])
def test_standard_errors_have_the_rate_of_false_alarms_and_the_power(numbers):
    """One false alarm in 10⁶; and 3 % in a variance seen by 4·10⁵ draws."""
    beyond = 1 - (1 - 2 * stats.norm.sf(sigmas(numbers))) ** numbers
    np.testing.assert_allclose(beyond, 1e-6, rtol=LIMIT)
    draws = 400_000
    off = lambda factor: (np.mean(factor * sample**2) - 1) / np.std(factor * sample**2) * draws**0.5
    sample = RNG.standard_normal(draws)
    assert abs(off(1.0)) < sigmas(numbers)
    assert min(abs(off(0.97)), abs(off(1.03))) > sigmas(numbers)


# Numbers that stand in the tests themselves: none may be added.
BARE = {
    "agreement/test_coherence.py": 2,
    "honesty/test_verdicts.py": 1,
    "sigprop/alignment/test_continuity.py": 1,
    "sigprop/commands/test_cli.py": 2,
    "sigprop/experiments/test_experiments.py": 2,
    "sigprop/jacobians/test_matrix_free.py": 3,
    "sigprop/sweeps/test_sweep.py": 2,
    "theory/description/test_closed_forms.py": 1,
    "theory/finite_width/test_generic_exponent.py": 2,
    "theory/gaussian/test_expectation.py": 4,
    "theory/gaussian/test_jumps.py": 1,
    "theory/mean_field/test_two_times.py": 2,
    "theory/phases/test_attractor.py": 2,
    "theory/phases/test_fixed_point.py": 4,
    "theory/phases/test_phase.py": 5,
    "theory/phases/test_radial.py": 7,
    "theory/spectrum/test_spectrum.py": 5,
}
BOUNDS = {"rtol", "atol", "rel", "abs"}


def bare_numbers(path):
    """Comparisons whose tolerance is a number of their own, or the library's default.

    A comment `within: …` behind the comparison says why it has a number of its own.
    """
    source = path.read_text()
    lines = source.splitlines()
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        given = {k.arg: k.value for k in call.keywords if k.arg in BOUNDS}
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        default = (name == "assert_allclose" and "rtol" not in given) or (
            name == "approx" and not given
        )
        number = any(isinstance(v, ast.Constant) and v.value != 0 for v in given.values())
        said = any("# within:" in line for line in lines[call.lineno - 1 : call.end_lineno])
        if (default or number) and not said:
            yield call.lineno


def test_tests_take_their_tolerances_from_the_table():
    tests = Path(__file__).parent
    found = {
        path.relative_to(tests).as_posix(): len(list(bare_numbers(path)))
        for path in sorted(tests.rglob("*.py"))
    }
    assert {name: count for name, count in found.items() if count} == BARE, (
        "take it from tests/tolerances.py, or say why not in a comment `within: …`; "
        "and count down in BARE where there are fewer"
    )


def test_a_number_of_its_own_is_seen(tmp_path):
    file = tmp_path / "test_new.py"
    for line, seen in [
        ("np.testing.assert_allclose(a, b, rtol=1e-3)", True),
        ("np.testing.assert_allclose(a, b)", True),
        ("np.testing.assert_allclose(a, b, atol=FOLD)", True),
        ("assert a == pytest.approx(b)", True),
        ("np.testing.assert_allclose(a, b, rtol=0, atol=FOLD)", False),
        ("np.testing.assert_allclose(a, b, rtol=0.3)  # within: five draws", False),
        ("assert a == pytest.approx(b, rel=FOLD)", False),
    ]:
        file.write_text(line)
        assert bool(list(bare_numbers(file))) == seen, line
