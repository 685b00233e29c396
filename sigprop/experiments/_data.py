"""Data for training studies: images, whole or pixel by pixel, delayed copying, text."""

import sysconfig
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sigprop.networks import digits_inputs, read_images
from theory.numerics import check_count, check_kind, renamed, shown

_DIGITS = 1797
_LONGEST = 100_000
"""Longest delay of the copy task."""
_TESTED = 360
_SYMBOLS, TOKENS = 8, 10
_BLANK, _GO = _SYMBOLS, _SYMBOLS + 1


class Labelled(NamedTuple):
    """Numbers in float32, and labels; several labels each if there are several answers."""

    train: Float[Array, "train numbers"]
    train_labels: Int[Array, "train *answers"]
    test: Float[Array, "test numbers"]
    test_labels: Int[Array, "test *answers"]
    classes: int
    inputs: int
    """Number of inputs per step, if the numbers are read as a sequence."""


def load_images(source: str, train_count: int | None = None) -> Labelled:
    """Load training and test images, with pixels in [0, 1].

    Parameters
    ----------
    source
        "digits", the 1797 images of 8×8 pixels in scikit-learn, of which 360 fixed ones are for
        the test; or a folder with the IDX files of MNIST or Fashion-MNIST, 60000 and 10000 images.
    train_count
        Number of training images, the first of a fixed order; None for all.

    Raises
    ------
    ValueError
        If there are no such files (the message says how to get them), or too few images.
    """
    if train_count is not None:
        check_count("train_count", train_count)
    if not isinstance(source, str | PathLike):
        raise TypeError(f"`source`: must be digits or the path of a folder; got {shown(source)}")
    if source == "digits":
        every, digits = digits_inputs(_DIGITS, key=jax.random.key(0), centre=False)
        pixels, labels = every[..., 0], np.asarray(digits)
        parts = [pixels[_TESTED:], labels[_TESTED:], pixels[:_TESTED], labels[:_TESTED]]
    else:
        parts = []
        for split in ("train", "test"):
            with renamed(path="source"):
                pixels, labels = read_images(source, split)
            if labels is None:
                raise ValueError(
                    f"`source`: must be a folder with images and labels; got {shown(str(source))}"
                )
            order = np.random.default_rng(0).permutation(len(pixels))
            parts += [pixels[order], labels[order]]
    train, train_labels, test, test_labels = parts
    if train_count is not None:
        if not 1 <= train_count <= len(train):
            raise ValueError(
                f"`train_count`: must be between 1 and {len(train)}; got {train_count}"
            )
        train, train_labels = train[:train_count], train_labels[:train_count]
    white = 255 if train.dtype == np.uint8 else 1
    as_pixels = lambda x: jnp.asarray(np.asarray(x, np.float32) / np.float32(white))
    as_labels = lambda y: jnp.asarray(y, jnp.int32)
    return Labelled(
        as_pixels(train),
        as_labels(train_labels),
        as_pixels(test),
        as_labels(test_labels),
        classes=10,
        inputs=1,
    )


def permuted(images: Labelled) -> Labelled:
    """Apply one fixed random order to the pixels of all images.

    Parameters
    ----------
    images
        From `load_images`.
    """
    check_kind("images", images, Labelled, "Labelled images, from load_images")
    order = np.random.default_rng(0).permutation(images.train.shape[1])
    return images._replace(train=images.train[:, order], test=images.test[:, order])


def copy_task(delay: int, train_count: int = 10_000, test_count: int = 1000) -> Labelled:
    """Build the copy task: ten tokens, to be repeated after a delay that varies.

    A sequence has `delay` + 20 steps, each one of ten symbols, one-hot: blanks, ten tokens out
    of eight, between 1 and `delay` blanks, the signal to go, nine blanks. The answers at the
    last ten steps are the tokens. Chance is 1/8.

    Parameters
    ----------
    delay
        Longest delay, at least 1.
    train_count, test_count
        Number of sequences.

    References
    ----------
    Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016, section 4.1 (the form with a
    fixed delay).
    """
    check_count("delay", delay, 1, _LONGEST)
    check_count("train_count", train_count)
    check_count("test_count", test_count)
    rng = np.random.default_rng(delay)
    count = train_count + test_count
    tokens = rng.integers(0, _SYMBOLS, (count, TOKENS))
    waits = rng.integers(1, delay + 1, count)
    steps = np.full((count, delay + 2 * TOKENS), _BLANK)
    rows = np.arange(count)[:, None]
    steps[rows, (delay - waits)[:, None] + np.arange(TOKENS)] = tokens
    steps[:, delay + TOKENS] = _GO
    numbers = np.eye(_SYMBOLS + 2, dtype=np.float32)[steps].reshape(count, -1)
    x, y = jnp.asarray(numbers), jnp.asarray(tokens, jnp.int32)
    cut = train_count
    return Labelled(x[:cut], y[:cut], x[cut:], y[cut:], _SYMBOLS, _SYMBOLS + 2)


def python_sources(train_count: int | None = None, window: int = 64) -> Labelled:
    """Load the sources of Python's standard library as bytes, with the byte that follows each.

    They are the top-level modules of the library, ordered by name; every tenth is for the test.
    They differ between versions of Python.

    Parameters
    ----------
    train_count
        Number of training windows; None for all.
    window
        Number of bytes in a window.

    Raises
    ------
    ValueError
        If this Python comes without its sources, or they have fewer windows than requested.
    """
    check_count("window", window)
    if train_count is not None:
        check_count("train_count", train_count)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = []
    for chosen in ([f for i, f in enumerate(files) if i % 10], files[::10]):
        text = np.frombuffer(b"".join(f.read_bytes() for f in chosen), np.uint8)
        count = max(len(text) - 1, 0) // window
        if count == 0:
            raise ValueError(
                "`data`: needs the sources of the standard library; this Python comes without"
            )
        size = count * window
        pairs = text[:size].reshape(count, window), text[1 : size + 1].reshape(count, window)
        order = np.random.default_rng(0).permutation(count)
        parts += [part[order] for part in pairs]
    train, answers, test, test_answers = parts
    count = len(train) if train_count is None else train_count
    if not 1 <= count <= len(train):
        raise ValueError(f"`train_count`: must be between 1 and {len(train)}; got {train_count}")
    as_numbers = lambda x: jnp.asarray(x, jnp.float32)
    as_labels = lambda x: jnp.asarray(x, jnp.int32)
    return Labelled(
        as_numbers(train[:count]),
        as_labels(answers[:count]),
        as_numbers(test[:_TESTED]),
        as_labels(test_answers[:_TESTED]),
        classes=256,
        inputs=1,
    )
