"""Every row of the table of observables, and observables of one's own, wherever they are used."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop import Sweep, run_sweep
from sigprop.commands import _cli
from sigprop.figures import choose, comparison_figure, series_of, sweep_figure
from sigprop.sweeps import _plan, summarised, sweep_theory
from tests.tolerances import FOLD, SINGLE, SOLUTION
from theory import OBSERVABLES, Observable

ERF = theory.activation("erf")


def length_ratio(moments):
    q = theory.length(moments)
    return q[:, 1] / q[:, 0]


def eigenvalues(moments):
    """Of two overlaps, the larger first."""
    q, c = theory.length(moments), theory.overlap(moments)[:, 0, 1]
    root = jnp.sqrt((q[:, 0] - q[:, 1]) ** 2 / 4 + c**2)
    middle = q.mean(axis=1)
    return jnp.stack([middle + root, middle - root], axis=1)


def of_the_first(moments):
    return theory.length(moments)[:, 0]


def nested():
    def inside(moments):
        return theory.length(moments)

    return inside


OWN = (
    Observable("length_ratio", "q_2/q_1", length_ratio, "inputs", ratio_of_means=True),
    Observable("spread", r"\lambda_l", eigenvalues, "rank", words="eigenvalues"),
)
ALL = (*OBSERVABLES, *OWN)
NAMES = [*OBSERVABLES, *(own.name for own in OWN)]
RECORDS = dict(zip(NAMES, (*OBSERVABLES.values(), *OWN), strict=True))
SWEEP = Sweep(
    activation="erf",
    weight_variance=1.5,
    bias_variance=0.1,
    depth=3,
    width=8,
    replicas=6,
    observables=ALL,
    dtype="float64",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("observables") / "sweep.zarr"
    run_sweep(SWEEP, path)
    return path


@pytest.fixture(scope="module")
def read(store):
    return sigprop.read_sweep(store)


@pytest.fixture(scope="module")
def drawn():
    """The same networks without a sweep."""
    network = theory.feedforward(ERF, 1.5, 0.1, depth=3)
    how = {"width": 8, "replicas": 6, "gradients": True, "explicit_weights": True}
    return sigprop.sample_ensemble(network, SWEEP.signals(1.0, 0.5), **how).samples


def rows(record, values):
    """Those of the layers where there is something."""
    layers = {"gradient_growth": 2}.get(record.name, 4 - record.first_layer)
    return np.asarray(values)[..., record.first_layer : record.first_layer + layers, :]


class TestSweep:
    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_read_is_what_was_drawn(self, name, read, drawn):
        record = RECORDS[name]
        each = jax.vmap(record.values)(drawn.moments)
        each = drawn.gradient_growth if record.gradients else each
        assert read[name].dims == ("replica", "layer", record.dimension)
        np.testing.assert_allclose(rows(record, read[name]), each, rtol=SOLUTION, atol=FOLD)
        assert np.isnan(read[name]).sum() == 6 * (4 - each.shape[1]) * each.shape[2]

    @pytest.mark.parametrize("name", NAMES)
    def test_means_plans_and_comparisons_average_alike(self, name, read, drawn):
        record, means = RECORDS[name], summarised(SWEEP, read)
        each = sigprop.comparison.contributions(record, drawn)
        found, error = (rows(record, means[n]) for n in (name, f"{name}_standard_error"))
        np.testing.assert_allclose(found, each.mean(axis=0), rtol=SOLUTION, atol=FOLD)
        expected = each.std(axis=0, ddof=1) / 6**0.5
        np.testing.assert_allclose(error, expected, rtol=SINGLE, atol=FOLD)
        one = dataclasses.replace(SWEEP, observables=(SWEEP.observables[NAMES.index(name)],))
        arrays = {kept.name: read[kept.name].values[:, [2]] for kept in one.stored}
        planned = _plan._contributions(one, arrays)
        assert planned.mean() == pytest.approx(float(means[name][2, 0]), rel=SOLUTION)

    @pytest.mark.parametrize("name", NAMES)
    def test_figure(self, name, read):
        view = choose(SWEEP, name, "layer", None, {}, 0)
        series = series_of(SWEEP, summarised(SWEEP, read), view)
        figure = sweep_figure(view, series, "")
        assert figure.axes[0].get_ylabel() == RECORDS[name].label
        shown = series[0].theory[~np.isnan(series[0].theory)]
        assert len(shown) == len(rows(RECORDS[name], read[name][0]))
        np.testing.assert_array_equal(
            series[0].theory, sweep_theory(SWEEP, name, SWEEP.point(0))[:, 0]
        )
        with pytest.raises(ValueError, match="`input`: must be from 0 to"):
            choose(SWEEP, name, "layer", None, {}, 2)

    def test_a_ratio_alone_comes_with_what_it_is_made_of(self, tmp_path):
        sweep = dataclasses.replace(SWEEP, observables=("correlation",))
        run_sweep(sweep, tmp_path / "sweep.zarr")
        found = sigprop.read_sweep(tmp_path / "sweep.zarr")
        assert {"correlation", "length", "overlap", "measured"} == set(found.data_vars)


class TestAddress:
    def test_sweeps_that_are_there_keep_theirs(self):
        """Of everything but the environment."""
        listed = ("length", "correlation", "distance", "slope", "log_gain", "gradient_growth")
        address = Sweep(observables=listed).addresses({})[0].tobytes().hex()
        assert address == "3f1f88d8c6303ae6b16ab685a0b5359fbc37e5e2d945309a29515775d907b6eb"
        from_the_table = tuple(OBSERVABLES[name] for name in listed)
        assert Sweep(observables=from_the_table) == Sweep(observables=listed)

    def test_own_observables_decide(self):
        own = OWN[0]
        address = lambda *chosen: Sweep(observables=chosen).addresses({})[0].tobytes()
        changes = [
            {"name": "another"},
            {"symbol": "r"},
            {"ratio_of_means": False},
            {"of": of_the_first, "ratio_of_means": False},
        ]
        found = {address(own), address("length"), address("length", own)}
        found |= {address(dataclasses.replace(own, **change)) for change in changes}
        assert len(found) == 3 + len(changes)
        assert address(own) == address(dataclasses.replace(own))

    @pytest.mark.parametrize(
        "of", [lambda m: m.log_gain, functools.partial(length_ratio), nested()]
    )
    def test_functions_without_a_place_of_their_own(self, of):
        with pytest.raises(
            ValueError, match="`observables`: must have functions defined"
        ) as caught:
            Sweep(observables=(Observable("mine", "x", of),))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["width", "measured", "x_standard_error"])
    def test_names_that_are_taken(self, name):
        with pytest.raises(
            ValueError, match=f"`observables`: must have other names than fields; got {name}"
        ):
            Sweep(observables=(dataclasses.replace(OWN[0], name=name),))

    @pytest.mark.parametrize("of", [theory.growth, theory.mean_field.log_tangent])
    def test_ratios_of_what_is_not_kept(self, of):
        own = Observable("mine", "x", of, ratio_of_means=True)
        with pytest.raises(ValueError, match="`observables`: must be functions of length and over"):
            Sweep(observables=(own,))

    def test_a_function_that_is_not_here(self, store, monkeypatch):
        """What needs it is left out, or says so; nothing is imported to find it."""
        here = sys.modules[__name__]
        monkeypatch.delattr(here, "length_ratio")
        monkeypatch.setattr(here, "eigenvalues", of_the_first)  # another text
        found, means = sigprop.read_sweep(store), sigprop.summarise_sweep(store)
        assert "length_ratio" not in found
        assert "length_ratio" not in means
        assert {"spread", "length", "correlation"} <= set(means)
        assert sigprop.sweep_status(store).done == 6
        opened = sigprop.sweeps.open_store(store, write=False).sweep
        with pytest.raises(ValueError, match=r"`observables`: .* no such .*:length_ratio"):
            sweep_theory(opened, "length_ratio", opened.point(0))
        with pytest.raises(ValueError, match=r"`path`: .* got results with observables"):
            run_sweep(dataclasses.replace(SWEEP, observables=(*OBSERVABLES,)), store)

    def test_files_have_none(self, tmp_path):
        file = tmp_path / "sweep.toml"
        file.write_text('observables = [{name = "mine", of = "os:getcwd"}]')
        with pytest.raises(ValueError, match="own observables are given from Python") as caught:
            sigprop.read_sweep_file(file)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def comparison():
    network = theory.feedforward(ERF, 1.5, 0.1, depth=3)
    inputs = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(0))
    return sigprop.compare(network, inputs, widths=(8, 16, 32), replicas=60, observables=ALL)


class TestCompare:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_row_is_judged(self, name, comparison):
        cells = comparison.cells[NAMES.index(name)]
        assert cells.observable.name == name
        assert cells.judged >= 0.5
        assert cells.largest_z < comparison.threshold
        data = sigprop.comparison.comparison_dataset(comparison)
        record = RECORDS[name]
        assert data[f"{name}_theory"].dims == (f"{name}_layer", record.dimension)
        assert data[f"{name}_theory"].attrs["long_name"] == record.label

    def test_figure_has_a_panel_for_each(self, comparison, tmp_path):
        """Also from a store, which sorts its arrays."""
        data = sigprop.comparison.comparison_dataset(comparison)
        sigprop.write_dataset(data, tmp_path / "comparison.zarr", provenance={})
        figure = comparison_figure(sigprop.read_dataset(tmp_path / "comparison.zarr"))
        labels = [panel.get_ylabel() for panel in figure.axes]
        assert labels == [*(record.label for record in RECORDS.values()), "$z$ (standard errors)"]
        last = figure.axes[-1].get_legend_handles_labels()[1]
        assert len(last) == len(NAMES) + 1

    def test_one_input_has_no_pairs(self):
        network = theory.feedforward(ERF, 1.5, 0.1, depth=1)
        inputs = jnp.ones((1, 4, 1))
        how = {"widths": (4, 6, 8), "replicas": 4, "gradients": False}
        chosen = sigprop.compare(network, inputs, observables=("length", "distance"), **how)
        assert [cells.observable.name for cells in chosen.cells] == ["length"]
        with pytest.raises(ValueError, match="`observables`: must have one that these networks"):
            sigprop.compare(network, inputs, observables=("distance",), **how)
        with pytest.raises(ValueError, match="`observables`: must be some of length"):
            sigprop.compare(network, inputs, observables=("entropy",), **how)


def test_participation_ratio_of_finite_networks():
    """Mean moments of a linear network are those of its inputs at every width, and so is their
    ratio, 1/(1 + c²); the mean of the networks' own ratios is not."""
    network = theory.feedforward(theory.activation("linear"), 1.0, depth=3)
    inputs = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(0))
    drawn = sigprop.sample_ensemble(network, inputs, width=8, replicas=4000).samples
    record = OBSERVABLES["participation_ratio"]
    each = np.asarray(sigprop.comparison.contributions(record, drawn))
    error = each.std(axis=0, ddof=1) / 4000**0.5
    z = lambda expected: np.abs(each.mean(axis=0) - expected) / error
    assert np.max(z(0.8)) < 5
    assert min(np.max(z(0.97 * 0.8)), np.max(z(1.03 * 0.8))) > 5
    alone = np.asarray(jax.jit(jax.vmap(record.values))(drawn.moments))
    assert np.max(np.abs(alone.mean(axis=0) - 0.8) / error) > 5


class TestCommands:
    def test_a_wrong_name_is_answered_with_every_observable(self, capsys):
        argv = "plan --activation erf --weight-variance 1 --bias-variance 0 --depth 2 --error 1"
        assert _cli.main([*argv.split(), "--observable", "entropy"]) == 2
        words = capsys.readouterr().err
        assert words.startswith("sigprop: --observable: must be some of length")
        assert all(name in words for name in OBSERVABLES)

    def test_unknown_names_are_refused_before_anything_is_drawn(self, capsys):
        argv = "compare --activation erf --weight-variance 1 --bias-variance 0 --depth 2"
        assert _cli.main([*argv.split(), "--observables", "length,entropy"]) == 2
        assert "--observables: must be some of length" in capsys.readouterr().err


def test_gradients_of_layers_outside_of_a_repeat_are_refused_before_anything_is_drawn():
    tanh = theory.activation("tanh")
    deep = theory.feedforward(tanh, 1.5, depth=2)
    longer = theory.Chain((*deep.parts, theory.layer(tanh, 1.5)))
    inputs = jnp.ones((2, 8, 1))
    with pytest.raises(ValueError, match=r"^`gradients`: must be False for a network with layers"):
        sigprop.compare(longer, inputs, widths=(8, 16, 32), replicas=10**6)


WRONG = {
    "inputs": lambda m: theory.length(m),
    "input": lambda m: theory.length(m)[:, 0],
    "pair": lambda m: theory.length(m),
    "mode": lambda m: theory.length(m)[:, 0],
}


@pytest.mark.parametrize("axis", WRONG)
def test_another_layout_than_the_axis_says_is_refused(axis):
    network = theory.feedforward(theory.activation("tanh"), 1.5, depth=2)
    own = Observable("own", "o", WRONG[axis], axis=axis)
    with pytest.raises(ValueError, match=r"^`observables`: own must return \[layers"):
        sigprop.compare(
            network, jnp.ones((3, 8, 1)), widths=(8, 16, 32), replicas=10**6, observables=(own,)
        )
    with pytest.raises(ValueError, match=r"^`first_layer`: must be a whole number >= 0; got -1"):
        Observable("own", "o", WRONG[axis], first_layer=-1)
