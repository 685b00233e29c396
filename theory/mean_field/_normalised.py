"""Second moments after layer or RMS normalisation.

Notation: μ_a = E u_a (k components), m_a its mean over components, 1 the vector of ones, and
σ_a² = E|u_a|²/k + ε after centring.
"""

import equinox as eqx
from jaxtyping import Float

from theory.description import Normalise
from theory.mean_field._moments import Moments, per_component
from theory.numerics import Array, xp


def normalised_moments(
    node: Normalise, value: Moments, error: Moments, mean: Float[Array, "n k"]
) -> tuple[Moments, Moments, Float[Array, "n k"]]:
    """Moments, their errors and the mean after a `Normalise`.

    At infinite width m and σ are numbers, and a generic tangent is divided by σ.

    Accuracy
    --------
    First order in the errors. The error of m, which is not propagated, is taken to be that of √q.
    """
    own_error = xp.diagonal(per_component(error.covariance))
    if node.kind == "layer":
        m = xp.mean(mean, axis=1)
        root = xp.sqrt(xp.diagonal(per_component(value.covariance)))
        doubt = 2 * xp.abs(m) * own_error / xp.where(root > 0, root, 1)
        value, error = _centred(value, error, mean, m, doubt)
        own_error, mean = own_error + doubt, mean - m[:, None]
    square = xp.diagonal(per_component(value.covariance)) + node.epsilon
    inverse = 1 / xp.sqrt(square)
    relative = own_error / (2 * square)
    both = (inverse[:, None] * inverse[None])[..., None, None]
    doubt = (relative[:, None] + relative[None])[..., None, None]

    # Half of E(u_a/σ_a − u_b/σ_b)(…)ᵀ, without the loss of 1 − c in C_aa + C_bb − 2 C_ab.
    own = xp.einsum("aaij,a->aij", value.covariance, inverse, precision="highest")
    own_doubt = xp.einsum("aaij,a->aij", error.covariance, inverse, precision="highest")
    unlike = (inverse[:, None] - inverse[None])[..., None, None] / 2
    differ = own[:, None] - own[None]
    separation = value.separation * both + unlike * differ
    separation_error = (
        error.separation * both
        + xp.abs(unlike) * (own_doubt[:, None] + own_doubt[None])
        + doubt * (xp.abs(value.separation) * both + xp.sqrt(both) * xp.abs(differ) / 2)
    )
    scaled = lambda matrix: matrix * both
    covariance, tangent = scaled(value.covariance), scaled(value.tangent)
    return (
        Moments(covariance, separation, tangent, value.log_gain),
        Moments(
            scaled(error.covariance) + xp.abs(covariance) * doubt,
            separation_error,
            scaled(error.tangent) + xp.abs(tangent) * doubt,
            error.log_gain,
        ),
        mean * inverse[:, None],
    )


def _centred(
    value: Moments,
    error: Moments,
    mean: Float[Array, "n k"],
    m: Float[Array, " n"],
    doubt: Float[Array, " n"],
) -> tuple[Moments, Moments]:
    """Moments of u − m 1."""
    ones = xp.ones(mean.shape[1], mean.dtype)
    row = xp.einsum("ai,b,j->abij", mean, m, ones, precision="highest")  # μ_a m_b 1ᵀ
    column = xp.einsum("bj,a,i->abij", mean, m, ones, precision="highest")
    covariance = value.covariance - row - column + (m[:, None] * m[None])[..., None, None]
    apart, gap = mean[:, None] - mean[None], m[:, None] - m[None]
    row = (apart * gap[..., None])[..., None] * ones[None, None, None]
    both = row + xp.swapaxes(row, -1, -2) - (gap**2)[..., None, None]
    size = (doubt[:, None] + doubt[None])[..., None, None]
    at = lambda moments: (moments.covariance, moments.separation)
    return (
        eqx.tree_at(at, value, (covariance, value.separation - both / 2)),
        eqx.tree_at(at, error, (error.covariance + size, error.separation + size)),
    )
