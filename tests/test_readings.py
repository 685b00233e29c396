"""Every reading answers for every node, or stands on a base that does."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import sigprop
import theory
from sigprop.networks import Along
from theory import Chain, Normalise, Pointwise, Residual
from theory.description import Reading, Survey

for package in (theory, sigprop):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

NODES = sorted(Reading.__abstractmethods__)


def readings(base=Reading):
    """Those of the library, in the order of their names."""
    found = set()
    for kind in base.__subclasses__():
        found |= {kind} | set(readings(kind))
    here = [kind for kind in found if kind.__module__.split(".")[0] in ("theory", "sigprop")]
    return sorted(here, key=lambda kind: kind.__qualname__)


def without(kind, method):
    """The class, written without one of its methods."""
    hidden = {method, "__dict__", "__weakref__", "__slots__"}
    body = {name: value for name, value in vars(kind).items() if name not in hidden}
    return type(kind)(kind.__name__, kind.__bases__, body)


def base_of(kind):
    return next(base for base in (Along, Survey, Reading) if issubclass(kind, base))


ALL = [kind for kind in readings() if kind not in (Along, Survey)]


def test_the_bases_are_these():
    names = lambda base: [kind.__name__ for kind in ALL if base_of(kind) is base]
    assert names(Along) == ["_Following", "_Probed", "_Referenced", "_Rotated", "_Streaming"]
    assert names(Survey) == ["Blank", "_Allowed", "_Biased", "_Drawing", "_Fresh", "_OuterDepth"]
    assert names(Reading) == [
        "FiniteNetwork",
        "HeldNetwork",
        "MeanField",
        "_AlongLength",
        "_Describe",
        "_Factors",
        "_FiniteWidth",
        "_Seen",
    ]


def test_what_the_bases_leave_open():
    assert Survey.__abstractmethods__ == frozenset()
    assert Along.__abstractmethods__ == {"through_time"}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_reading_that_forgets_a_node_cannot_be_made(kind):
    assert kind.__abstractmethods__ == frozenset()
    for method in base_of(kind).__abstractmethods__:
        forgetful = without(kind, method)
        assert forgetful.__abstractmethods__ == {method}
        with pytest.raises(TypeError, match=f"abstract method '?{method}"):
            object.__new__(forgetful)


def test_a_survey_passes_every_node_by():
    class Nothing(Survey):
        pass

    tanh = theory.activation("tanh")
    body = Chain((Normalise(), Pointwise(tanh), theory.affine(1.5)))
    body = Chain((body, Residual(body)))
    recurrent = theory.recurrent(tanh, 1.5, steps=3)
    network = Chain((theory.affine(1.0), theory.repeat(body, 4), recurrent))
    state, notes = theory.description.interpret(network, Nothing(), jnp.asarray(7.0))
    assert state == 7.0
    assert jax.tree.leaves(notes) == []


def test_what_a_survey_finds_in_a_branch_stays_found():
    class Matrices(Survey):
        def affine(self, node, state):
            return state + 1, None

    network = theory.feedforward(theory.activation("tanh"), 1.0, depth=5, residual=True)
    assert theory.description.interpret(network, Matrices(), jnp.asarray(0))[0] == 6
