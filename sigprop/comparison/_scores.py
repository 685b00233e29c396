"""Means over networks of several widths: their limit, and its significance.

Notation: over R networks of width N an observable has the mean y_N = y + b/N (+ c/N² from four
widths on), x = N_min/N, and t = (estimate of y − theory)/(standard error).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from theory.numerics import as_array, as_real, shown

_DOUBT = 2.0
"""Standard errors by which the skewness may exceed that of the sample."""
_MISFIT = 3.29
"""Deviations of the fit beyond which it is rejected: one true cell in 1000."""
_CONVERGES = 0.5
"""Largest correction of order 1/N, at the smallest width, for which the series is used."""
_NEXT = 2.0
"""A bound on the next order over the power of the first; it is ½ for y exp(b/(N y))."""


class Fit(NamedTuple):
    """Coefficients that turn means over networks into the parameters of the fit.

    They are fixed numbers: weights estimated from the same networks would bias the limit towards
    the widths that happen to fluctuate less.
    """

    coefficients: np.ndarray
    """[orders, widths]. For y, b/N_min, …: least squares with weights R N, the inverse of the
    variances s/(R N)."""
    misfit: np.ndarray
    """[rest, widths]. Orthonormal combinations that vanish if the form is right."""
    left_out: float
    """The error of y for a next order of 1 at the smallest width."""


def fit_of(widths: Sequence[int], replicas: Sequence[int]) -> Fit:
    """The fit for these numbers of networks."""
    x = min(widths) / np.asarray(widths, float)
    orders = 3 if len(widths) >= 4 else 2
    design = x[:, None] ** np.arange(orders)
    root = np.sqrt(np.asarray(widths, float) * np.asarray(replicas, float))
    coefficients = np.linalg.pinv(root[:, None] * design) * root
    misfit = np.linalg.svd(design.T)[2][orders:]
    return Fit(coefficients, misfit, float(abs(coefficients[0] @ x**orders)))


class Limit(NamedTuple):
    """The simulation extrapolated to infinite width, cell by cell."""

    value: np.ndarray
    error: np.ndarray
    """Standard error of the value."""
    freedom: np.ndarray
    """Degrees of freedom of the standard error."""
    skewness: np.ndarray
    """A bound on the absolute skewness of the value."""
    first: np.ndarray
    """b/N at the smallest width."""
    first_error: np.ndarray
    chi_square: np.ndarray
    """χ² of the fit, with one degree of freedom for each of its `misfit`."""
    fits: np.ndarray
    """Whether that is no larger than in all but one of 1000 true cells."""


def limit_of(fit: Fit, samples: Sequence[np.ndarray]) -> Limit:
    """The limit of infinite width from one number per network, [networks, cells] at each width.

    References
    ----------
    Satterthwaite 1946 and Welch 1947, for the degrees of freedom.
    """
    mean = np.stack([s.mean(axis=0) for s in samples])

    def per_width(values):
        return np.asarray(values, float).reshape(-1, *(1,) * (mean.ndim - 1))

    count = per_width([len(s) for s in samples])
    variance, skewness = map(np.stack, zip(*map(_spread, samples), strict=True))
    skewness = skewness + _DOUBT * np.sqrt(6 / count)

    def spread(row):  # of a combination of means, width by width
        return per_width(row) ** 2 * variance

    own = spread(fit.coefficients[0])
    total = own.sum(axis=0)
    share = own / np.where(total > 0, total, 1.0)
    freedom = 1 / np.maximum(np.sum(share**2 / (count - 1), axis=0), 1e-12)
    first, first_error = (
        np.einsum("w,w...->...", fit.coefficients[1], mean),
        np.sqrt(spread(fit.coefficients[1]).sum(axis=0)),
    )

    rest = np.einsum("iw,w...->...i", fit.misfit, mean)
    covariance = np.einsum("iw,w...,jw->...ij", fit.misfit, variance, fit.misfit)
    # Numbers that do not fluctuate at all (conserved ones) are known to rounding.
    floor = (4 * np.finfo(float).eps * np.abs(mean).max(axis=0)) ** 2 + 1e-200
    covariance = covariance + floor[..., None, None] * np.eye(len(fit.misfit))
    solved = np.linalg.solve(covariance, rest[..., None])[..., 0]
    chi_square = np.sum(rest * solved, axis=-1)
    most = _as_student(_MISFIT, float(count.min()) - 1) ** 2 + 3 * (len(fit.misfit) - 1)
    return Limit(
        np.einsum("w,w...->...", fit.coefficients[0], mean),
        np.sqrt(total),
        freedom,
        np.maximum(np.sum(share**1.5 * skewness / np.sqrt(count), axis=0), 1e-9),
        first,
        first_error,
        chi_square,
        chi_square <= most,
    )


def _spread(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the mean, and the absolute skewness of one network."""
    away = sample - sample.mean(axis=0)
    size = np.abs(away).max(axis=0)
    away = away / np.where(size > 0, size, 1.0)
    square, cube = np.mean(away**2, axis=0), np.mean(away**3, axis=0)
    skewness = np.abs(cube) / np.where(square > 0, square, 1.0) ** 1.5
    return np.asarray(square * size**2 / (len(sample) - 1)), np.asarray(skewness)


def score(t: Any, limit: Limit) -> np.ndarray:
    """The z of a normal law that is as significant as t, and never more.

    Few networks make large t likely (Student's law). So does skewness, on one side: mean and
    standard error are then both too small, or both too large. Hall's transformation removes it to
    first order; the worse side counts, and beyond its turning point nothing is known.

    Accuracy
    --------
    See docs/comparison.md. Wallace's formula is below the exact z by at most .01 at z = 5 for 10
    degrees of freedom.

    References
    ----------
    Hall 1992, On the removal of skewness by transformation, eq. 2.2; Wallace 1959, eq. 4.2.
    """
    size = np.minimum(np.abs(t), 3 / limit.skewness)
    bend = limit.skewness * size / 3
    size = size * (1 - bend + bend * bend / 3)
    n = limit.freedom
    z = (8 * n + 1) / (8 * n + 3) * np.sqrt(n * np.log1p(size * size / n))
    return np.asarray(np.sign(t) * z)


def judgeable(limit: Limit, scale: Any, threshold: float) -> np.ndarray:
    """Whether a verdict at this threshold is possible.

    It is not if skewness hides deviations of that size, if the form of the fit is wrong, or if
    the correction of order 1/N is as large as the number itself.

    Parameters
    ----------
    scale
        The scale of the corrections.
    """
    far = score(np.full_like(limit.skewness, np.inf), limit)
    small = np.abs(limit.first) - 2 * limit.first_error <= _CONVERGES * scale
    return np.asarray((far > threshold) & limit.fits & small & np.isfinite(limit.value))


def next_order(fit: Fit, limit: Limit, scale: np.ndarray) -> np.ndarray:
    """A bound on the omitted orders of the fit, estimated from the first order, [layers, cells].

    Corrections are powers of depth over width, so those of earlier layers count, too.
    """
    relative = np.abs(limit.first) / np.where(scale > 0, scale, np.inf)
    relative = np.maximum.accumulate(np.nan_to_num(relative), axis=0)
    return _NEXT * fit.left_out * scale * relative ** len(fit.coefficients)


def _as_student(z: float, freedom: float) -> float:
    """The t of Student's law that is as significant as z."""
    scaled = z * (8 * freedom + 3) / (8 * freedom + 1)
    return float(np.sqrt(freedom * np.expm1(scaled**2 / freedom)))


def extrapolate(
    widths: Sequence[int], mean: np.ndarray, standard_error: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit y_N = y + b/N (+ c/N² from four widths on) by weighted least squares.

    Parameters
    ----------
    widths
        At least three.
    mean, standard_error
        Shape [widths, ...].

    Returns
    -------
    intercept, its standard error, and χ² of the fit, each of shape [...].
    """
    known = np.asarray(as_array("widths", widths, "[widths]"), float)
    if len(np.unique(known)) < 3 or len(np.unique(known)) < len(known) or not np.all(known > 0):
        raise ValueError(f"`widths`: must be at least 3 different widths; got {shown(widths)}")
    mean = np.asarray(as_real("mean", mean), float)
    standard_error = np.asarray(as_real("standard_error", standard_error), float)
    for name, values in (("mean", mean), ("standard_error", standard_error)):
        if values.ndim == 0 or len(values) != len(known) or values.shape != mean.shape:
            raise ValueError(
                f"`{name}`: must have one row for each of {len(known)} widths; got shape "
                f"{list(values.shape)}"
            )
    if np.any(standard_error < 0):
        raise ValueError("`standard_error`: must be at least 0; got a number below")
    scaled = min(known) / known
    degree = 2 if len(widths) >= 4 else 1
    design = scaled[:, None] ** np.arange(degree + 1)
    # A cell that does not fluctuate at all (a conserved number) is known exactly.
    tiny = np.finfo(float).eps * np.maximum(np.abs(mean), 1e-100)
    weight = 1 / np.maximum(standard_error, tiny) ** 2
    normal = np.einsum("wi,w...,wj->...ij", design, weight, design)
    right = np.einsum("wi,w...,w...->...i", design, weight, mean)
    coefficients = np.linalg.solve(normal, right[..., None])[..., 0]
    error = np.sqrt(np.linalg.inv(normal)[..., 0, 0])
    residual = mean - np.einsum("wi,...i->w...", design, coefficients)
    chi_square = np.sum(weight * residual**2, axis=0)
    return coefficients[..., 0], np.asarray(error), np.asarray(chi_square)
