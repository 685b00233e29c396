"""Questions that the nodes of a description answer."""

import jax

from theory.description._nodes import (
    Affine,
    Chain,
    Part,
    Pointwise,
    Repeat,
    Residual,
    WeightLaw,
    only_scales,
)


def check_read_in(network: Part) -> None:
    """Raise a `TypeError` if the first weights turn one input into units that are not Gaussian.

    At finite input width that happens if rotations change the law of the weights.
    """
    acting = lambda node: isinstance(node, Affine)
    first = next(filter(acting, jax.tree.leaves(network, is_leaf=acting)), None)
    if first is not None and not first.weights.family.rotation_invariant:
        raise TypeError(
            "`network`: must have Gaussian or orthogonal weights on its inputs, as in "
            "theory.feedforward: other weights turn inputs of finite width into units that are "
            f"not Gaussian; got {first.weights.family.name} ones"
        )


def starts_nonlinear(part: Part) -> bool:
    """Whether inputs meet a nonlinearity before anything that mixes units."""
    match part:
        case Chain(parts=parts):
            rest = [member for member in parts if not only_scales(member)]
            return bool(rest) and starts_nonlinear(rest[0])
        case Repeat(body=body):
            return starts_nonlinear(body)
        case Residual(branch=branch):
            return starts_nonlinear(branch)
        case Pointwise():
            return not only_scales(part)
        case _:
            return False


def weight_laws(part: Part) -> list[WeightLaw]:
    """The laws of all weights of a network."""
    is_law = lambda node: isinstance(node, WeightLaw)
    return [node for node in jax.tree.leaves(part, is_leaf=is_law) if is_law(node)]


def components(part: Part) -> int:
    """The number k of real components of the units of a network."""
    laws = weight_laws(part)
    return laws[0].components if laws else 1
