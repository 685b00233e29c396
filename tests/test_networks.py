"""The table of networks leaves nothing out, and every reading takes it or refuses in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from sigprop import sample_network
from tests.networks import NETWORKS
from theory.description import ALGEBRAS, components, weight_laws


def nodes_in(table):
    if isinstance(table, list):
        return {name for member in table for name in nodes_in(member)}
    if not isinstance(table, dict):
        return set()
    own = {table["node"]} if "node" in table else set()
    return own.union(*map(nodes_in, table.values()))


def test_every_kind_of_node_law_and_algebra_is_there():
    nodes = {name for network in NETWORKS.values() for name in nodes_in(theory.to_dict(network))}
    assert nodes == {kind.__name__.lower() for kind in theory.Part.__args__}
    laws = [law for network in NETWORKS.values() for law in weight_laws(network)]
    families = theory.GaussianWeights, theory.OrthogonalWeights, theory.SparseWeights
    assert {type(law.family) for law in laws} == set(families)
    assert {law.algebra for law in laws} == set(ALGEBRAS)


@pytest.mark.parametrize("name", NETWORKS)
def test_describe_writes_it_and_theory_has_its_group(name):
    network = NETWORKS[name]
    assert len(theory.describe(network).splitlines()) >= 2
    assert theory.symmetry(network).dimension >= 0


SLOWLY = ("layer", "complex", "residual", "rms", "deep residual", "schedule")
DRAWN = ["sparse", "noise", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOWLY)]


@pytest.mark.parametrize("name", DRAWN)
def test_a_wide_network_has_the_lengths_of_theory(name):
    """Within a tenth at width 400 after four draws; all numbers a third larger are further away."""
    network = NETWORKS[name]
    k = components(network)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, k)))
    whole = network if name in ("deep residual", "schedule") else None
    if whole is None:
        whole = theory.Chain((theory.affine(1.0, components=k), theory.repeat(network, 2)))
    last = lambda described: float(theory.length(theory.propagate(described, x).value)[-1, 0])
    expected = last(whole)
    assert abs(last(jax.tree.map(lambda number: number * 4 / 3, whole)) / expected - 1) > 0.2
    keys = jax.random.split(jax.random.key(1), 4)
    draw = lambda key: theory.length(sample_network(whole, x, key=key, width=400).moments)[-1, 0]
    found = np.mean([float(draw(key)) for key in keys])
    assert abs(found / expected - 1) < 0.1
