"""Labelled images for training studies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sigprop._inputs import digits_inputs, read_images

_DIGITS = 1797
_TESTED = 360


class Images(NamedTuple):
    """Pixels in [0, 1] in float32, and labels."""

    train: Float[Array, "train pixels"]
    train_labels: Int[Array, " train"]
    test: Float[Array, "test pixels"]
    test_labels: Int[Array, " test"]
    classes: int = 10


def load_images(source: str, train_count: int | None = None) -> Images:
    """Images to train and to test on.

    Parameters
    ----------
    source
        "digits", scikit-learn's 1797 images of 8×8 pixels, of which 360 fixed ones are for the
        test; or a folder with the IDX files of MNIST or Fashion-MNIST, 60000 and 10000.
    train_count
        How many to train on, the first of a fixed order; None for all.

    Raises
    ------
    ValueError
        If there are no such files (it says how to get them), or fewer images than asked for.
    """
    if source == "digits":
        every, digits = digits_inputs(jax.random.key(0), _DIGITS, centre=False)
        pixels, labels = every[..., 0], np.asarray(digits)
        parts = [pixels[_TESTED:], labels[_TESTED:], pixels[:_TESTED], labels[:_TESTED]]
    else:
        parts = []
        for split in ("train", "test"):
            pixels, labels = read_images(source, split)
            if labels is None:
                raise ValueError(f"`data`: must be a folder with images and labels; got {source}")
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
    return Images(
        as_pixels(train), as_labels(train_labels), as_pixels(test), as_labels(test_labels)
    )
