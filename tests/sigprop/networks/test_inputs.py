"""Inputs to networks: the wanted Gram matrix, real images, and refusals in one line."""

import gzip
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop.networks._inputs import digits_inputs, gram_inputs, idx_inputs, pair_gram, read_idx
from tests.tolerances import FOLD, LAYERS

KEY = jax.random.key(0)
IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def gram_of(inputs):
    """The moments of inputs, [inputs, inputs, components, components]."""
    return np.einsum("aim,bin->abmn", inputs, inputs) / inputs.shape[1]


def low_rank_gram(inputs, rank):
    root = np.random.default_rng(rank).normal(size=(inputs, rank))
    return root @ root.T


def idx_bytes(array):
    header = struct.pack(">HBB", 0, IDX_CODES[array.dtype.str[1:]], array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refusal(function, *args, **options):
    """The message with which a call is refused; it has to be one line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is returned
        function(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


GRAMS = {
    "identity": np.eye(3),
    "correlation 1": pair_gram(1.5, 1.0),
    "correlation -1": pair_gram(1.5, -1.0),
    "correlation 0.3": pair_gram(2.0, 0.3),
    "rank 2 of 5": low_rank_gram(5, 2),
    "as many as the width": low_rank_gram(40, 40),
    "more than the width": low_rank_gram(50, 7),
    "a zero input": np.diag([1.0, 0.0]),
    "nothing but zero": np.zeros((2, 2)),
}


@pytest.mark.parametrize("gram", GRAMS.values(), ids=GRAMS.keys())
def test_gram_matrix_is_exact(gram):
    inputs = gram_inputs(gram, 40, key=KEY)
    assert inputs.shape == (len(gram), 40, 1)
    assert inputs.dtype == jnp.float64
    np.testing.assert_allclose(
        gram_of(inputs)[:, :, 0, 0], gram, rtol=0, atol=1e-12 * np.max(gram, initial=1)
    )


def test_rounding_is_relative_to_the_lengths_of_the_entry():
    lengths = np.array([1e-12, 1.0, 1e12])
    correlation = np.array([[1, 0.6, -0.2], [0.6, 1, 0.1], [-0.2, 0.1, 1]])
    scale = np.sqrt(np.outer(lengths, lengths))
    found = gram_of(gram_inputs(correlation * scale, 20, key=KEY))[:, :, 0, 0]
    np.testing.assert_allclose(found / scale, correlation, rtol=0, atol=LAYERS)


def test_each_component_carries_the_gram_matrix():
    gram = low_rank_gram(3, 2)
    expected = gram[:, :, None, None] * np.eye(4)
    np.testing.assert_allclose(
        gram_of(gram_inputs(gram, 8, key=KEY, components=4)), expected, rtol=0, atol=FOLD
    )


def test_direction_is_uniform_on_the_sphere():
    # x_i² / width has mean 1 / width and x_i a symmetric law: 4000 draws, five standard errors.
    width, draws = 4, 4000
    keys = jax.random.split(KEY, draws)
    gram = np.ones((1, 1))
    directions = jax.vmap(lambda key: gram_inputs(gram, width, key=key))(keys)[:, 0, :, 0]
    covariance = directions.T @ directions / draws
    np.testing.assert_allclose(covariance, np.eye(width), rtol=0, atol=5 * np.sqrt(2 / draws))
    np.testing.assert_allclose(directions.mean(0), 0, rtol=0, atol=5 / np.sqrt(draws))
    # Haar: the fourth moment is 3 width / (width + 2), not 1 (a corner) or width (an axis).
    fourth = np.mean(directions**4)
    np.testing.assert_allclose(
        fourth, 3 * width / (width + 2), rtol=0, atol=0.1
    )  # within: its standard error


def test_inputs_depend_on_the_key_alone():
    gram = pair_gram(1.0, 0.5)
    first, again = gram_inputs(gram, 10, key=KEY), gram_inputs(gram, 10, key=KEY)
    other = gram_inputs(gram, 10, key=jax.random.key(1))
    assert np.array_equal(first, again)
    assert np.max(np.abs(first - other)) > 0.1


@pytest.mark.parametrize(
    ("gram", "width", "expected"),
    [
        (np.array([[1, 2.0], [2, 1]]), 9, "`gram`: must be positive semidefinite; got"),
        (np.array([[1, 0.5], [0.4, 1]]), 9, "`gram`: must be symmetric; got"),
        (np.array([[1, np.nan], [np.nan, 1]]), 9, "`gram`: must be finite; got"),
        (np.array([[1, 1e-6], [1e-6, 0.0]]), 9, "`gram`: must be zero in the row"),
        (-np.eye(2), 9, "`gram`: must have no negative length; got -1"),
        (np.eye(10), 9, "`gram`: must have rank at most width / components = 9; got rank 10"),
        (np.zeros((0, 0)), 9, "`gram`: must be a square matrix; got shape (0, 0)"),
        (np.eye(2), 0, "`width`: must be a whole number of at least 1; got 0"),
    ],
)
def test_bad_gram_is_refused(gram, width, expected):
    assert refusal(gram_inputs, gram, width, key=KEY).startswith(expected)


def test_bad_pair_is_refused():
    assert refusal(pair_gram, 1.0, 1.1) == "`correlation`: must be between -1 and 1; got 1.1"
    assert refusal(pair_gram, -1.0, 0.0).startswith("`length`: must be finite and at least 0")
    assert refusal(pair_gram, 1.0, float("nan")).startswith("`correlation`")


def test_digits_are_normalised_as_a_data_set():
    inputs, labels = digits_inputs(1797, key=KEY, length=2.0)
    assert inputs.shape == (1797, 64, 1)
    np.testing.assert_allclose(np.mean(inputs), 0, rtol=0, atol=FOLD)
    np.testing.assert_allclose(np.mean(np.sum(inputs**2, (1, 2)) / 64), 2.0, rtol=FOLD)
    assert sorted(set(np.asarray(labels).tolist())) == list(range(10))
    few, few_labels = digits_inputs(3, key=KEY, length=2.0)
    assert np.array_equal(few, inputs[:3])
    assert np.array_equal(few_labels, labels[:3])


def test_raw_digits_are_between_black_and_white():
    inputs, _ = digits_inputs(1797, key=KEY, centre=False)
    assert inputs.min() == 0
    assert inputs.max() == 1
    stretched, _ = digits_inputs(1797, key=KEY, centre=False, length=3.0)
    np.testing.assert_allclose(np.mean(stretched**2), 3.0, rtol=FOLD)
    assert stretched.min() == 0


def test_digits_carry_their_labels():
    # Zeros and ones differ in the middle of the image: a hole against a stroke.
    inputs, labels = digits_inputs(1797, key=KEY, centre=False)
    middle = inputs.reshape(-1, 8, 8)[:, 3:5, 3:5].mean((1, 2))
    assert middle[labels == 0].mean() < 0.3 < 0.6 < middle[labels == 1].mean()


@pytest.mark.parametrize("count", [0, -1, 1798])
def test_bad_count_is_refused(count):
    expected = f"`count`: must be between 1 and 1797, the number of images; got {count}"
    assert refusal(digits_inputs, count, key=KEY) == expected


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan")])
def test_bad_length_is_refused(length):
    assert refusal(digits_inputs, 2, key=KEY, length=length).startswith(
        "`length`: must be finite and"
    )


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", IDX_CODES)
def test_idx_round_trip(tmp_path, kind, compress):
    array = (np.arange(24).reshape(2, 3, 4) * 5 + (1000 if kind in ("i2", "i4") else 0)).astype(
        kind
    )
    (tmp_path / "file").write_bytes(compress(idx_bytes(array)))
    found = read_idx(tmp_path / "file")
    assert found.dtype == np.dtype(kind)
    assert np.array_equal(found, array)


WHOLE = idx_bytes(np.zeros((2, 3), "i2"))
DAMAGED = {
    "empty": (b"", "must begin with the magic number"),
    "short magic": (b"\0\0\x08", "must begin with the magic number"),
    "non-zero magic": (b"\1\0\x08\1" + WHOLE[4:], "must begin with the magic number"),
    "unknown type": (b"\0\0\x0a\1" + WHOLE[4:], "must begin with the magic number"),
    "no axes": (b"\0\0\x08\0", "must begin with the magic number"),
    "short header": (WHOLE[:10], "must have a header of 12 bytes; got 10 bytes"),
    "short": (WHOLE[:-1], "must have 24 bytes for shape (2, 3) of int16; got 23 bytes"),
    "long": (WHOLE + b"\0", "must have 24 bytes for shape (2, 3) of int16; got 25 bytes"),
    "absurd size": (b"\0\0\x08\3" + b"\xff" * 12, "must have 79228162458924105385300197391 bytes"),
    "short gzip": (gzip.compress(WHOLE)[:-9], "must be a readable IDX file"),
    "damaged gzip": (gzip.compress(WHOLE)[:12] + bytes(20), "must be a readable IDX file"),
}


@pytest.mark.parametrize(("content", "expected"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_idx_is_refused(tmp_path, content, expected):
    path = tmp_path / "images"
    path.write_bytes(content)
    assert refusal(read_idx, path).startswith(f"`path`: {path} {expected}")


def write_images(folder, images, labels=None, *, stem="train", dash="-"):
    (folder / f"{stem}-images{dash}idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    if labels is not None:
        (folder / f"{stem}-labels{dash}idx1-ubyte").write_bytes(idx_bytes(labels))


def test_images_come_with_their_labels(tmp_path):
    # Each image is filled with its label, so that they can be told apart.
    labels = np.arange(20, dtype=np.uint8)
    write_images(tmp_path, np.broadcast_to(labels[:, None, None], (20, 3, 2)), labels)
    inputs, found = idx_inputs(tmp_path, 8, key=KEY, centre=False)
    assert inputs.shape == (8, 6, 1)
    np.testing.assert_allclose(
        inputs * 255, np.broadcast_to(found[:, None, None], (8, 6, 1)), rtol=FOLD
    )
    assert len(set(found.tolist())) == 8


def test_images_are_found_by_split_and_by_file(tmp_path):
    write_images(tmp_path, np.full((4, 2, 2), 255, "u1"), dash=".")
    write_images(tmp_path, np.zeros((3, 2, 2), "u1"), stem="t10k")
    train, labels = idx_inputs(tmp_path, 4, key=KEY, centre=False)
    test, _ = idx_inputs(tmp_path, 3, key=KEY, split="test", centre=False)
    alone, _ = idx_inputs(tmp_path / "t10k-images-idx3-ubyte.gz", 3, key=KEY, centre=False)
    assert labels is None
    assert train.min() == 1
    assert test.max() == alone.max() == 0


def test_images_are_normalised(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    write_images(tmp_path, images)
    inputs, _ = idx_inputs(tmp_path, 30, key=KEY, length=0.5)
    np.testing.assert_allclose(np.mean(inputs), 0, rtol=0, atol=FOLD)
    np.testing.assert_allclose(np.mean(inputs**2), 0.5, rtol=FOLD)


def test_missing_images_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        message = refusal(idx_inputs, path, 1, key=KEY)
        assert "train-images-idx3-ubyte" in message
        assert str(path) in message
        assert "apt install dataset-fashion-mnist" in message


def test_unfit_images_are_refused(tmp_path):
    write_images(tmp_path, np.zeros((3, 2, 2), "u1"), np.zeros(2, "u1"))
    assert "must contain 3 labels; got shape (2,)" in refusal(idx_inputs, tmp_path, 1, key=KEY)
    write_images(tmp_path, np.zeros((3, 2, 2), "u1"), np.zeros(3, "u1"))
    assert refusal(idx_inputs, tmp_path, 4, key=KEY).startswith("`count`: must be between 1 and 3")
    assert "all pixels are equal" in refusal(idx_inputs, tmp_path, 1, key=KEY, length=1.0)
    labels = tmp_path / "train-labels-idx1-ubyte"
    assert "must contain images; got an array of shape (3,)" in refusal(
        idx_inputs, labels, 1, key=KEY
    )
