"""Bad input of every kind, at every door: one line that names the field, and nothing written."""

import inspect
import itertools
import time

import pytest

from sigprop.commands import _output
from sigprop.commands._cli import app, main
from tests.documented import documented
from tests.honesty import bad_input
from tests.honesty.bad_calls import CALLS
from tests.honesty.bad_commands import LINES
from tests.honesty.bad_input import ACCEPTED, DOORS, REFUSED, WORKS, Case, judged, outcome


def failures(cases):
    found = ((case.label, outcome(case)) for case in cases)
    return [f"{label}: {what}" for label, what in found if what not in (REFUSED, ACCEPTED, WORKS)]


def test_nothing_is_left_out():
    functions = {n for n, f in documented().items() if inspect.isfunction(f)}
    assert functions <= set(CALLS) <= set(documented())

    def commands(app, words=()):
        for word in (word for word in app if not word.startswith("-")):
            inner = app[word]
            if inner.default_command is None:
                yield from commands(inner, (*words, word))
            else:
                yield (*words, word)

    assert set(commands(app)) == set(LINES)


@pytest.mark.parametrize(
    ("door", "step"), [("command", 211), *((d, 19) for d in DOORS if "file" in d)]
)
def test_some_of_the_table(door, step):
    """The steps are prime, so that the sample has every field and every kind."""
    assert failures(itertools.islice(DOORS[door](), 0, None, step)) == []


def test_some_functions():
    cases = bad_input.calls(cheap=True)
    assert failures(itertools.islice(cases, 0, None, 83)) == []


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_the_whole_table(door):
    assert failures(DOORS[door]()) == []


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("`width`: must be a whole number of at least 1; got -1", REFUSED),
        ("`height`: must be a whole number of at least 1; got -1", "names another field"),
        ("`height`: must be a number; got width", "names another field"),
        ("`width`: must be\na number", "more than one line"),
        ("`width`: must be a number; got a\0", "more than one line"),
        ("`width` is wrong", "gives no range"),
        ("`width`: must be a number; got " + 2000 * "x", "long"),
    ],
)
def test_the_judge(said, wanted):
    assert judged(said, ("width",)).startswith(wanted)


def test_what_is_no_refusal_fails():
    case = lambda ask: Case("door", "of", "width", "kind", ask, ("width",))
    assert outcome(case(lambda: {}["width"])).startswith("raises KeyError")
    assert outcome(case(lambda: exit(0))).startswith("raises SystemExit")
    assert outcome(case(lambda: None)) == ACCEPTED


def test_a_wait_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(_output, "_PATIENCE", 0.01)
    with _output.explained("loading"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "sigprop: loading\n"
    with _output.explained("loading"):
        pass
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("words", "lines"), [([], 1), (["--json"], 0)])
def test_a_command_says_that_it_loads(words, lines, monkeypatch, capsys):
    from sigprop.commands import _predict_command

    def slow(*_):
        time.sleep(0.3)
        return 0

    monkeypatch.setattr(_output, "_PATIENCE", 0.01)
    monkeypatch.setattr(_predict_command, "predict", slow)
    point = ["--activation", "erf", "--weight-variance", "2", "--bias-variance", "0"]
    assert main(["predict", *point, *words]) == 0
    assert capsys.readouterr().err.count("sigprop: predict: loading JAX") == lines
