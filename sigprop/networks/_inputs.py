"""Inputs to networks: a given Gram matrix, the digits of scikit-learn, images in IDX files."""

import gzip
import zlib
from importlib import metadata
from math import prod
from os import PathLike
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Integer, Num, PRNGKeyArray, Shaped

from sigprop.networks._arguments import check_key
from sigprop.networks._lapack import qr
from theory.numerics import (
    as_number,
    as_path,
    as_real,
    check_count,
    check_flag,
    check_length,
    check_positive,
    check_word,
    shown,
)

# The third byte of an IDX file gives the type of its elements.
_IDX_TYPES = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(np.int16),
    0x0C: np.dtype(np.int32),
    0x0D: np.dtype(np.float32),
    0x0E: np.dtype(np.float64),
}
_IDX_SPLITS = {"train": "train", "test": "t10k"}
_GET_DATA = "on Debian: apt install dataset-fashion-mnist; dpkg -L dataset-fashion-mnist"


def pair_gram(length: float, correlation: float) -> Float[Array, "2 2"]:
    """The Gram matrix of two inputs of equal length, ``[[q, q c], [q c, q]]``.

    Parameters
    ----------
    length
        q, at least 0.
    correlation
        c, from -1 to 1.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_length("length", length)
    known = as_number("correlation", correlation, "between -1 and 1")
    if not isinstance(known, Tracer) and not -1 <= known <= 1:
        raise ValueError(f"`correlation`: must be between -1 and 1; got {shown(correlation)}")
    mixed = length * correlation
    return jnp.asarray([[length, mixed], [mixed, length]], dtype=float)


def gram_inputs(
    gram: Float[Array | np.ndarray, "inputs inputs"],
    width: int,
    *,
    key: PRNGKeyArray,
    components: int = 1,
) -> Float[Array, "inputs {width} {components}"]:
    """Draw inputs with an exactly given Gram matrix, in a random direction.

    ``sum_i x[a, i, m] x[b, i, n] / width = gram[a, b] δ_mn``. The frame of the inputs is uniform
    (Haar) among all frames of that width, so nothing but the Gram matrix is singled out.

    Parameters
    ----------
    gram
        Symmetric and positive semidefinite, of any rank up to ``width / components``; it may be
        singular (correlation 1 or -1, a zero input). It must be concrete, not traced.
    width
        Units per input.
    key
        Decides the frame.
    components
        Real components k per unit. Each has the same Gram matrix, and they are orthogonal.

    Raises
    ------
    ValueError
        If `gram` is not such a matrix, or a number is below 1.

    Notes
    -----
    Convention: lengths and Gram matrices are per unit and per real component.

    Accuracy: rounding, relative to the two lengths of each entry, however different those are.
    """
    check_key("key", key)
    check_count("width", width)
    check_count("components", components)
    root = _root(as_real("gram", gram))
    inputs, rank = root.shape
    if rank * components > width:
        raise ValueError(
            f"`gram`: must have rank at most width / components = {width // components};"
            f" got rank {rank}"
        )
    # With the signs of the diagonal of R removed, Q of a Gaussian matrix is Haar.
    frame, triangle = qr(jax.random.normal(key, (width, components * rank)))
    frame = frame * jnp.sign(jnp.diagonal(triangle))[None, :]
    frame = frame.reshape(width, components, rank) * np.sqrt(width)
    product = jnp.einsum("ar,imr->aim", jnp.asarray(root, frame.dtype), frame, precision="highest")
    return product.reshape(inputs, width, components)


def pair_inputs(
    cross: Float[Array | np.ndarray, "k k"],
    width: int,
    *,
    key: PRNGKeyArray,
) -> Float[Array, "2 {width} k"]:
    """Draw two inputs of units with k components and an exactly given cross-covariance.

    ``sum_i x[0, i, m] x[1, i, n] / width = cross[m, n]``, and each input has covariance 1. If
    ``cross`` is the transpose of a rotation R, the second input is the first, rotated by R.

    Parameters
    ----------
    cross
        k × k with no singular value above 1. It must be concrete, not traced.
    width
        Units; at least 2 k, or k if all singular values are 1.
    key
        Decides the frame of the inputs.

    Raises
    ------
    ValueError
        If there are no such inputs.
    """
    check_key("key", key)
    check_count("width", width)
    cross = np.asarray(as_real("cross", cross), np.float64)
    if cross.ndim != 2 or len(cross) != cross.shape[1]:
        raise ValueError(f"`cross`: must be a square matrix; got shape {cross.shape}")
    k = len(cross)
    finite = bool(np.all(np.isfinite(cross)))
    largest = (
        float(np.linalg.norm(cross, 2)) if cross.size and finite else 0.0 if finite else np.nan
    )
    if not largest <= 1 + 64 * np.finfo(float).eps:
        raise ValueError(f"`cross`: must have no singular value above 1; got {largest:.6g}")
    values, vectors = np.linalg.eigh(np.eye(k) - cross.T @ cross)
    values = np.where(values > 1e-14, values, 0.0)
    kinds = 2 if np.any(values) else 1
    if width < kinds * k:
        raise ValueError(f"`width`: must be at least {kinds * k} units; got {width}")
    frame, triangle = qr(jax.random.normal(key, (width, kinds * k)))
    frame = frame * jnp.sign(jnp.diagonal(triangle))[None, :] * np.sqrt(width)
    one, other = frame[:, :k], frame[:, k:]
    second = jnp.matmul(one, jnp.asarray(cross, frame.dtype), precision="highest")
    if kinds == 2:
        rest = jnp.asarray((vectors * np.sqrt(values)).T, frame.dtype)
        second = second + jnp.matmul(other, rest, precision="highest")
    return jnp.stack([one, second])


def digits_inputs(
    count: int, *, key: PRNGKeyArray, centre: bool = True, length: float | None = None
) -> tuple[Float[Array, "{count} 64 1"], Int[Array, " {count}"]]:
    """Load real inputs without a download: images of digits from scikit-learn, 64 pixels each.

    Parameters
    ----------
    count
        Number of images, up to 1797.
    key
        Decides which images are taken, without repetition; a smaller `count` takes the first of
        them.
    centre
        Subtract one number, the mean over all pixels of the whole data set.
    length
        If given, multiply by one number such that the mean length over the whole data set has this
        value. Neither number depends on the images taken. Otherwise black is 0 and white is 1, up
        to the centring.

    Returns
    -------
    inputs, labels
        Images with axes inputs, pixels, one component; and their digits.

    Raises
    ------
    ValueError
        If `count` is not between 1 and the number of images, or `length` is not positive.

    Notes
    -----
    Convention: length is ``|x|² / width``, here with width 64.
    """
    pixels, labels = _digits()
    chosen = _choose(key, count, len(pixels))
    inputs = _normalise(pixels, chosen, white=16, centre=centre, length=length)
    return inputs, jnp.asarray(labels[chosen], dtype=int)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, from the file that scikit-learn installs.

    Importing scikit-learn itself takes longer than importing JAX.
    """
    file = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    if not Path(str(file)).is_file():
        from sklearn.datasets import load_digits

        pixels, labels = map(np.asarray, load_digits(return_X_y=True))
        return pixels, labels
    table = np.loadtxt(str(file), delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def idx_inputs(
    path: str | PathLike[str],
    count: int,
    *,
    key: PRNGKeyArray,
    split: Literal["train", "test"] = "train",
    centre: bool = True,
    length: float | None = None,
) -> tuple[Float[Array, "{count} width 1"], Int[Array, " {count}"] | None]:
    """Load images from IDX files, the format of MNIST and Fashion-MNIST.

    Parameters
    ----------
    path
        A folder with the files under their usual names (``train-images-idx3-ubyte``,
        ``t10k-labels-idx1-ubyte``, ...; gzipped or not), or one file of images.
    count, key, centre, length
        As in `digits_inputs`. Pixels that are unsigned bytes are divided by 255; others are used
        as they are.
    split
        Which files of a folder to read.

    Returns
    -------
    inputs, labels
        Images with axes inputs, pixels, one component; and their labels, None if there is no file
        of labels.

    Raises
    ------
    ValueError
        If there are no such files, they are damaged, `count` is not between 1 and the number of
        images, or `length` is not positive.
    """
    pixels, labels = read_images(path, split)
    chosen = _choose(key, count, len(pixels))
    white = 255 if pixels.dtype == np.uint8 else 1
    inputs = _normalise(pixels, chosen, white=white, centre=centre, length=length)
    return inputs, None if labels is None else jnp.asarray(labels[chosen], dtype=int)


def read_images(
    path: str | PathLike[str], split: Literal["train", "test"] = "train"
) -> tuple[Num[np.ndarray, "images width"], Integer[np.ndarray, " images"] | None]:
    """All images and labels of IDX files, unchanged; see `idx_inputs`."""
    check_word("split", split, _IDX_SPLITS)
    path = as_path("path", path)
    images, label_file = path, None
    if not images.is_file():
        stem = _IDX_SPLITS[split]
        images = _find(path, f"{stem}-images", "idx3-ubyte")
        label_file = _find(path, f"{stem}-labels", "idx1-ubyte")
        if images is None:
            raise ValueError(
                f"`path`: must be a folder with {stem}-images-idx3-ubyte or its .gz, or one file of"
                f" images; got {path} ({_GET_DATA})"
            )
    pixels = read_idx(images)
    if pixels.ndim < 2 or pixels.size == 0:
        raise ValueError(
            f"`path`: {images} must contain images; got an array of shape {pixels.shape}"
        )
    pixels = pixels.reshape(len(pixels), -1)
    if label_file is None:
        return pixels, None
    labels = read_idx(label_file)
    if labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"`path`: {label_file} must contain {len(pixels)} labels; got shape {labels.shape}"
        )
    return pixels, labels


def read_idx(path: str | PathLike[str]) -> Shaped[np.ndarray, "..."]:
    """Read the array in an IDX file, gzipped or not, of any element type of the format.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        If the file cannot be read, is not an IDX file, or its size does not match its header.
    """
    path = as_path("path", path)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"`path`: {path} must be a readable IDX file; got {reason}") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] == 0:
        raise ValueError(
            f"`path`: {path} must begin with the magic number of an IDX file (two zero bytes,"
            f" an element type, a number of axes); got {magic.hex(' ') or 'nothing'}"
        )
    dtype, axes = _IDX_TYPES[magic[2]], magic[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(
            f"`path`: {path} must have a header of {start} bytes; got {len(content)} bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    expected = start + prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(
            f"`path`: {path} must have {expected} bytes for shape {shape} of {dtype};"
            f" got {len(content)} bytes"
        )
    return (
        np.frombuffer(content, dtype.newbyteorder(">"), offset=start).reshape(shape).astype(dtype)
    )


def _root(gram: Float[Array | np.ndarray, "inputs inputs"]) -> Float[np.ndarray, "inputs rank"]:
    """R with R Rᵀ = gram and as many columns as the rank, in float64."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0:
        raise ValueError(f"`gram`: must be a square matrix; got shape {gram.shape}")
    if not jnp.issubdtype(gram.dtype, jnp.floating):
        raise ValueError(f"`gram`: must contain floating-point numbers; got {gram.dtype}")
    rounding = 8 * len(gram) * float(jnp.finfo(gram.dtype).eps)
    gram = np.asarray(gram, np.float64)
    if not np.all(np.isfinite(gram)):
        raise ValueError("`gram`: must be finite; got an infinite or undefined entry")
    lengths = np.diagonal(gram)
    if np.any(lengths < 0):
        raise ValueError(f"`gram`: must have no negative length; got {lengths.min():.3g}")
    # Use correlations: with unit lengths, rounding is the same for short and long inputs.
    scale = np.sqrt(lengths)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    correlation = inverse[:, None] * gram * inverse[None, :]
    asymmetry = np.abs(correlation - correlation.T).max(initial=0)
    if asymmetry > rounding:
        raise ValueError(f"`gram`: must be symmetric; got correlations {asymmetry:.3g} apart")
    if np.any(gram[lengths == 0]):
        raise ValueError("`gram`: must be zero in the row of an input of length zero; got a number")
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    if values.min(initial=0) < -rounding:
        raise ValueError(
            "`gram`: must be positive semidefinite; got the eigenvalue"
            f" {values.min():.3g} after scaling to unit lengths"
        )
    kept = values > rounding
    return scale[:, None] * vectors[:, kept] * np.sqrt(values[kept])


def _find(folder: Path, stem: str, kind: str) -> Path | None:
    """A file of the data set under one of its usual names, preferably not gzipped."""
    names = [f"{stem}{dash}{kind}{end}" for end in ("", ".gz") for dash in "-."]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _choose(key: PRNGKeyArray, count: int, images: int) -> Int[np.ndarray, " {count}"]:
    """Which of the images to take."""
    check_key("key", key)
    known = isinstance(count, int | np.integer) and not isinstance(count, bool)
    if not known or not 1 <= count <= images:
        raise ValueError(
            f"`count`: must be between 1 and {images}, the number of images; got {shown(count)}"
        )
    return np.asarray(jax.random.permutation(key, images))[:count]


def _normalise(
    pixels: Num[np.ndarray, "images width"],
    chosen: Int[np.ndarray, " count"],
    *,
    white: int,
    centre: bool,
    length: float | None,
) -> Float[Array, "count width 1"]:
    """The chosen images, normalised by numbers that depend on all of them."""
    check_flag("centre", centre)
    mean = pixels.mean(dtype=np.float64) / white if centre else 0.0
    factor = 1.0
    if length is not None:
        check_positive("length", length)
        # Image by image: as floats the whole data set would take eight times the memory.
        mean_length = np.mean([np.mean((image / white - mean) ** 2) for image in pixels])
        if not mean_length > 0:
            raise ValueError("`length`: must be omitted if all pixels are equal; got a number")
        factor = np.sqrt(length / mean_length)
    return jnp.asarray((pixels[chosen] / white - mean) * factor, dtype=float)[:, :, None]
