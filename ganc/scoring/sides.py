"""The sides of a model: each generator with its discriminator. A CycleGAN has two."""

from typing import Any, NamedTuple

from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.sampling import pick_generator
from ganc.options import flag_of
from ganc.scoring.request import ScoreRequest


class Side(NamedTuple):
    """What belongs to a generator: its discriminator, and the setting that names its images."""

    discriminator: str
    data: str


SIDES: dict[str, Side] = {
    "generator": Side("discriminator", "data"),
    "generator_b": Side("discriminator_b", "data_b"),
}


def sides_of(
    model: Model, request: ScoreRequest, *, with_discriminator: bool = False
) -> list[Model]:
    """Split a model into what is scored one after the other.

    Args:
        with_discriminator: Whether the method looks at the discriminators, asked for or not. Its
            images are then a training set, of which one direction may need both sides.
    Returns:
        One model per side, whose networks and groups keep the names that they have in ``model``.
        They hold the caller's networks, discriminators only where the request asks for them.
    Raises:
        InputError: There is no such generator, or no discriminator to score.
        UsageError: Images are given for a generator that is not scored.
    """
    if request.network is not None:
        pick_generator(model, request.network)
    found = dict(model.networks())
    names = [n for n in SIDES if n in found and request.network in (None, n)]
    if not names:
        raise InputError(
            "the model holds no generator to score", "import it with the file of its generator"
        )
    if request.discriminator and not any(SIDES[name].discriminator in found for name in names):
        raise InputError(
            "--discriminator: the model holds no discriminator to score",
            "leave it out, or import the model with the file of its discriminator",
        )
    for name, side in SIDES.items():
        is_given = getattr(request, side.data) is not None and not with_discriminator
        if is_given and name not in names:
            flag = flag_of(side.data)
            raise UsageError(f"{flag} goes with {name}, which is not scored", f"leave {flag} out")
    is_wanted = request.discriminator or with_discriminator
    return [_side(found, name, is_wanted) for name in names]


def _side(networks: dict[str, Any], name: str, with_discriminator: bool) -> Model:
    chosen = (name, SIDES[name].discriminator) if with_discriminator else (name,)
    return Model(**{key: networks[key] for key in chosen if key in networks})
