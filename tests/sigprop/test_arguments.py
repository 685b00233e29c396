"""A bad argument is answered in one line: its name, what it must be, what was given."""

import jax
import jax.numpy as jnp
import pytest

import sigprop
import theory
from sigprop.commands._cli import main

TANH = theory.activation("tanh")
NETWORK = theory.feedforward(TANH, 1.5, 0.05, depth=3)
KEY = jax.random.key(0)
X = jnp.ones((1, 8, 1))
SIZE = {"width": 8, "replicas": 2}


def ensemble(network=NETWORK, inputs=X, **how):
    return sigprop.sample_ensemble(network, inputs, **{**SIZE, **how})


def compare(network=NETWORK, inputs=X, **how):
    return sigprop.compare(network, inputs, **how)


BAD = [
    (lambda: ensemble(None), "`network`: must be a part such as theory.layer; got None"),
    (lambda: ensemble(seed="a"), "`seed`: must be a whole number from 0 to 4294967295; got 'a'"),
    (lambda: ensemble(seed=-1), "`seed`: must be a whole number from 0 to 4294967295; got -1"),
    (lambda: ensemble(precision="foo"), "`precision`: must be one of .*; got 'foo'"),
    (lambda: ensemble(precision=[]), r"`precision`: must be one of .*; got \[\]"),
    (lambda: ensemble(explicit_weights="yes"), "`explicit_weights`: must be True or .*; got 'yes'"),
    (lambda: ensemble(gradients="yes"), "`gradients`: must be True or False; got 'yes'"),
    (lambda: ensemble(block=0), "`block`: must be a whole number of at least 1; got 0"),
    (lambda: ensemble(inputs=None), "`inputs`: must contain real numbers; got None"),
    (lambda: ensemble(inputs="x"), "`inputs`: must contain real numbers; got 'x'"),
    (lambda: sigprop.sample_jacobians(None, X, **SIZE), "`network`: must be a part"),
    (
        lambda: sigprop.sample_jacobians(NETWORK, None, **SIZE),
        "`inputs`: must contain real numbers",
    ),
    (
        lambda: sigprop.sample_jacobian(NETWORK, X, key=0, width=8),
        "`key`: must be a key, .*; got 0",
    ),
    (
        lambda: sigprop.sample_network(NETWORK, X, key=None, width=8),
        "`key`: must be a key, .*; got No",
    ),
    (lambda: sigprop.sample_network(None, X, key=KEY, width=8), "`network`: must be a part"),
    (lambda: sigprop.sample_network(NETWORK, X, key=KEY, width=2.5), "`width`: must be a whole"),
    (
        lambda: sigprop.networks.sample_coherence(NETWORK, None, **SIZE),
        "`inputs`: must be real numbers of shape",
    ),
    (
        lambda: sigprop.networks.DrawnNetwork(NETWORK, None, width=8),
        "`key`: must be a key, .*; got None",
    ),
    (
        lambda: sigprop.networks.DrawnNetwork(None, KEY, width=8),
        "`network`: must be a part .*; got None",
    ),
    (
        lambda: sigprop.networks.DrawnNetwork(NETWORK, KEY, width=0),
        "`width`: must be a whole number",
    ),
    (lambda: compare(None), "`network`: must be a part such as theory.layer; got None"),
    (lambda: compare(inputs=None), "`inputs`: must contain real numbers; got None"),
    (lambda: compare(widths=8), "`widths`: must be a sequence of whole numbers; got 8"),
    (lambda: compare(widths=None), "`widths`: must be a sequence of whole numbers; got None"),
    (lambda: compare(widths=(8, 16, 32.5)), "`widths`: must be a whole number .*; got 32.5"),
    (lambda: compare(widths=(8, 16)), "`widths`: must be at least 3 different widths"),
    (lambda: compare(replicas=None), "`replicas`: must be a sequence of whole .*; got None"),
    (lambda: compare(replicas=1), "`replicas`: must be a whole number of at least 2; got 1"),
    (lambda: sigprop.pair_gram(None, 0.5), "`length`: must be one number, .*; got None"),
    (lambda: sigprop.pair_gram(1.0, [0.5]), r"`correlation`: must be one number, .*; got \[0.5\]"),
    (lambda: sigprop.pair_gram(1.0, 2.0), "`correlation`: must be between -1 and 1; got 2.0"),
    (lambda: sigprop.gram_inputs(jnp.eye(2), 8, key=0), "`key`: must be a key, .*; got 0"),
    (lambda: sigprop.gram_inputs(None, 8, key=KEY), "`gram`: must contain real numbers; got None"),
    (lambda: sigprop.gram_inputs([1.0], 8, key=KEY), "`gram`: must be a square matrix; got shape"),
    (
        lambda: sigprop.gram_inputs(jnp.eye(2), None, key=KEY),
        "`width`: must be a whole .*; got None",
    ),
    (
        lambda: sigprop.networks.pair_inputs(None, 8, key=KEY),
        "`cross`: must contain real numbers; got None",
    ),
    (lambda: sigprop.digits_inputs("a", key=KEY), "`count`: must be between 1 and .*; got 'a'"),
    (lambda: sigprop.probe(jnp.tanh, None), "`x`: must contain real numbers; got None"),
    (lambda: sigprop.probe(None, X), "`fn`: must be a function, .*; got NoneType"),
    (lambda: sigprop.probe(jnp.tanh, X, key=0), "`key`: must be a key"),
    (lambda: sigprop.run_sweep(None, "store"), "`sweep`: must be a sigprop.Sweep; got None"),
    (lambda: sigprop.certify(None, X, []), "`fn`: must be a function of an array; got None"),
    (lambda: sigprop.certify(jnp.tanh, None, []), "`x`: must contain real numbers; got None"),
    (
        lambda: sigprop.jacobians.product_log_singular_values(None),
        "`factors`: must contain real numbers; got N",
    ),
    (
        lambda: sigprop.jacobians.product_log_singular_values([[[1.0]], [[1.0, 2.0]]]),
        "`factors`: must contain real numbers; got",
    ),
    (
        lambda: sigprop.jacobians.leading_singular_values(jnp.tanh, X, key=None),
        "`key`: must be a key",
    ),
    (
        lambda: sigprop.jacobians.estimate_spectrum(jnp.tanh, None, key=KEY),
        "`x`: must be an array; got None",
    ),
]


@pytest.mark.parametrize(("ask", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named_in_one_line(ask, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_gram_matrices_may_be_lists():
    listed = sigprop.gram_inputs([[1.0, 0.5], [0.5, 1.0]], 8, key=KEY)
    array = sigprop.gram_inputs(sigprop.pair_gram(1, 0.5), 8, key=KEY)
    assert jnp.array_equal(listed, array)


def test_a_missing_option_is_said_to_be_missing(capsys):
    assert main(["compare", "--activation", "tanh", "--depth", "0"]) == 2
    told = capsys.readouterr().err
    assert told == "sigprop: --weight-variance: must be given, or --network; got none\n"
