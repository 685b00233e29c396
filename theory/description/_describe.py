"""The recursion of a network as text: a reading whose state is text."""

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from theory.description._activations import Activation, Radial
from theory.description._interpret import Reading, interpret
from theory.description._nodes import (
    Affine,
    Noise,
    Normalise,
    Part,
    Pointwise,
    WeightLaw,
    check_part,
)
from theory.description._structure import components
from theory.numerics import check_flag


class _Told(eqx.Module):
    """A signal, its length, the slope up to it, and its mean, as formulas."""

    signal: str = eqx.field(static=True)
    length: str = eqx.field(static=True)
    slope: str = eqx.field(static=True)
    mean: str = eqx.field(static=True, default="0")


_NAMED = _Told("z", "q", "1")


class _Describe(Reading[_Told]):
    """Formulas; a `Repeat` notes the lines of its body."""

    latex: bool = eqx.field(static=True)
    components: int = eqx.field(static=True)

    def affine(self, node: Affine, state: _Told):
        variance, bias = _number(node.weights.variance), _number(node.bias_variance)
        signal, length = f"W {_factor(state.signal)}", _times(variance, state.length)
        if bias != "0":
            signal, length = f"{signal} + b", f"{length} + {bias}"
        return _Told(signal, length, _times(variance, state.slope)), None

    def pointwise(self, node: Pointwise, state: _Told):
        name, phi = self._name(node.activation), node.activation
        square = self._mean(name, phi, state.length)
        after = _Told(
            f"{name}({state.signal})",
            square,
            _times(state.slope, self._mean(f"{name}'", phi, state.length)),
            "0" if isinstance(phi, Radial) or phi.parity == "odd" else square[: -len(self._square)],
        )
        return after, None

    def normalise(self, node: Normalise, state: _Told):
        kind = "LN" if node.kind == "layer" else "RMS"
        name = rf"\mathrm{{{kind}}}" if self.latex else kind
        centred = node.kind == "layer" and state.mean != "0"
        minus = "-" if self.latex else "−"
        square = f"{state.length} {minus} ({state.mean}){self._square}" if centred else state.length
        root = square if node.epsilon == 0 else f"{square} + {_number(node.epsilon)}"
        length = "1" if node.epsilon == 0 else f"{_factor(square)}/({root})"
        mean = "0" if node.kind == "layer" or state.mean == "0" else f"{state.mean}/√({root})"
        after = _Told(f"{name}({state.signal})", length, f"{_factor(state.slope)}/({root})", mean)
        return after, None

    def noise(self, node: Noise, state: _Told):
        if not np.any(np.asarray(node.variance)):
            return state, None
        variance, whole = _number(node.variance), _number(1 + np.asarray(node.variance))
        factor = rf"(1 + \sqrt{{{variance}}}\,g)\," if self.latex else f"(1 + √{variance} g) "
        after = _Told(
            f"{factor}{_factor(state.signal)}",
            _times(whole, state.length),
            _times(whole, state.slope),
            state.mean,
        )
        return after, None

    def add(self, skip: _Told, branch: _Told):
        pairs = zip(*(vars(told).values() for told in (skip, branch)), strict=True)
        return _Told(*(" + ".join(x for x in p if x != "0") or "0" for p in pairs)), None

    def through_time(self, step: Callable, state: _Told, steps: int):
        start = [] if state == _NAMED else self.equations("u", "p", state)[:2]
        after, (notes, _) = step(self, _NAMED, _Told("u", "p", "0"))
        body = [*_lines(notes), *self.equations("z'", "q'", after)]
        return _NAMED, [*start, f"{steps} steps, W and b shared:", *map(_indent, body)]

    def loop(self, layer: Callable, state: _Told, layers: Any, depth: int):
        told = []
        for place in (0, depth - 1):
            after, note = layer(_NAMED, jax.tree.map(lambda leaf, i=place: leaf[i], layers))
            equations = [] if after == _NAMED else self.equations("z'", "q'", after)
            told.append([*_lines(note), *equations])
        start = [] if state == _NAMED else self.equations("z", "q", state)[:2]
        first, last = told
        if first == last:
            return _NAMED, [*start, f"{depth} times:", *map(_indent, first)]
        return _NAMED, [*start, f"{depth} times, at first:", *map(_indent, first)] + [
            "and at last:",
            *map(_indent, last),
        ]

    def equations(self, signal: str, length: str, told: _Told) -> list[str]:
        slope = r"\chi" if self.latex else "χ"
        pairs = [(signal, told.signal), (length, told.length), (slope, told.slope)]
        return [f"{name} = {formula}" for name, formula in pairs]

    def _name(self, activation: Activation) -> str:
        if not self.latex:
            return activation.name
        known = {"tanh": r"\tanh", "sin": r"\sin"}
        text = activation.name.replace("_", r"\_")
        return known.get(activation.name, rf"\mathrm{{{text}}}")

    @property
    def _square(self) -> str:
        return "^2" if self.latex else "²"

    def _mean(self, name: str, activation: Activation, length: str) -> str:
        """E φ² of one unit, per real component."""
        expectation, square = r"\mathbb{E}\," if self.latex else "E ", self._square
        if length == "q":
            root = r"\sqrt{q}\,\zeta" if self.latex else "√q ζ"
        else:
            root = rf"\sqrt{{{length}}}\,\zeta" if self.latex else f"√({length}) ζ"
        if isinstance(activation, Radial):
            return f"{expectation}|{name}({root})|{square}/{self.components}"
        return f"{expectation}{name}({root}){square}"


def describe(network: Part, *, latex: bool = False) -> str:
    """Write out the recursion of a network.

    Parameters
    ----------
    network
        The description.
    latex
        Write formulas in LaTeX.

    Returns
    -------
    str
        Signals z, lengths q and slopes χ, one equation per line, for each `Repeat` (its first
        and last layer if variances depend on depth), and the law of the weights. ζ is standard
        normal, as is the g of noise. For radial φ, ζ has k components and |φ'|² is the sum of
        the squares of all entries.

    Examples
    --------
    >>> tanh = theory.activation("tanh")
    >>> print(theory.describe(theory.feedforward(tanh, 1.5, 0.05, depth=50)))
    z = W x + b
    q = 1.5 |x|²/N + 0.05
    50 times:
      z' = W tanh(z) + b
      q' = 1.5 E tanh(√q ζ)² + 0.05
      χ = 1.5 E tanh'(√q ζ)²
    W: Gaussian weights, E |W_ij|² = σ_w²/N
    """
    check_part("network", network)
    check_flag("latex", latex)
    reading = _Describe(latex, components(network))
    acting = (Affine, Pointwise, Normalise, Noise)
    first, *_ = jax.tree.leaves(network, is_leaf=lambda node: isinstance(node, acting))
    inside = not isinstance(first, Affine)  # one layer, from pre-activations
    start = _NAMED if inside else _Told("x", "|x|^2/N" if latex else "|x|²/N", "1")
    after, notes = interpret(network, reading, start)
    lines = _lines(notes)
    if after != _NAMED:
        prime = "'" if inside or lines else ""
        lines += reading.equations(f"z{prime}", f"q{prime}", after)
    return "\n".join([*lines, *_laws(network, latex)])


def _laws(network: Part, latex: bool) -> list[str]:
    """The laws of the weights, without repetition."""
    found: list[str] = []

    def note(node: Any) -> bool:
        if isinstance(node, WeightLaw):
            k = node.components
            of_units = f" between units of {k} real components" if k > 1 else ""
            algebra = "" if node.algebra == "real" else f"{node.algebra} "
            found.append(f"{algebra}{node.family.name} weights{of_units}")
        return isinstance(node, WeightLaw)

    jax.tree.flatten(network, is_leaf=note)
    moment = r"\mathbb{E}\,|W_{ij}|^2 = \sigma_w^2/N" if latex else "E |W_ij|² = σ_w²/N"
    return [f"W: {law}, {moment}" for law in dict.fromkeys(found)]


def _lines(notes: Any) -> list[str]:
    """The lines in notes, in order of the description."""
    leaves = jax.tree.leaves(notes)
    return [leaf for leaf in leaves if isinstance(leaf, str)]


def _indent(line: str) -> str:
    return f"  {line}"


def _number(value: Any) -> str:
    return f"{float(np.asarray(value)):.6g}"


def _factor(formula: str) -> str:
    inner = formula
    while "(" in inner or "{" in inner:  # what stands in brackets is no sum outside of them
        inner = re.sub(r"\([^(){}]*\)|\{[^(){}]*\}", "", inner)
    return f"({formula})" if re.search(" [+−-] ", inner) else formula


def _times(a: str, b: str) -> str:
    """A product, without factors of 1."""
    if "1" in (a, b):
        return b if a == "1" else a
    a, b = _factor(a), _factor(b)
    return f"{a}·{b}" if a[-1].isdigit() and b[0].isdigit() else f"{a} {b}"
