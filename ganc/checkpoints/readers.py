"""The table of readers, and which of a file's networks are read by which of them."""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ganc.checkpoints import (
    basicsr,
    junyanz,
    mimicry,
    normalise,
    nvidia,
    nvidia_bare,
    nvidia_tensors,
    rosinality,
)
from ganc.checkpoints.foreign import Conversion, Reader, SettingError, as_assumed
from ganc.checkpoints.normalise import Found
from ganc.checkpoints.refusals import printable
from ganc.errors import CheckpointError, UsageError
from ganc.models.model import build_network
from ganc.models.network import Network

_STYLEGANS = ("stylegan2", "stylegan3")

TWO_WAY = ("resnet_translator", "unet_translator", "patchgan")
"""Architectures of which a checkpoint may hold two: a CycleGAN's directions."""

READERS: dict[str, Reader] = {
    "nvidia": Reader(
        "NVIDIA's StyleGAN2-ADA and StyleGAN3 `.pkl`",
        _STYLEGANS, nvidia.recognises, nvidia.convert,
    ),
    "nvidia_tensors": Reader(
        "what `ganc export --format nvidia` writes",
        _STYLEGANS, nvidia_tensors.recognises, nvidia_tensors.convert,
    ),
    "nvidia_bare": Reader(
        "bare state dicts of NVIDIA's networks",
        _STYLEGANS, nvidia_bare.recognises, nvidia_bare.convert,
    ),
    "basicsr": Reader(
        "BasicSR's StyleGAN2 `.pth`", ("stylegan2",), basicsr.recognises, basicsr.convert
    ),
    "rosinality": Reader(
        "rosinality's StyleGAN2 `.pt`", ("stylegan2",), rosinality.recognises, rosinality.convert
    ),
    "mimicry": Reader(
        "mimicry's SN-GAN `.pth`", ("sngan",), mimicry.recognises, mimicry.convert
    ),
    "junyanz": Reader(
        "junyanz's pix2pix and CycleGAN `.pth` and their relatives",
        TWO_WAY, junyanz.recognises, junyanz.convert, goes_by_names=False,
    ),
}  # fmt: skip
"""Layout → its reader, in the order in which they are asked."""

_DEEPEST_PART = 3


@dataclass(frozen=True, eq=False)
class Claim:
    """A network of the file, and the reader that knows it."""

    found: Found
    layout: str
    role: str


@dataclass
class Reading:
    """What the readers made of one file.

    Attributes:
        layouts: Those that it is of: one, as a rule.
        networks: By their name in ``Model``.
        inferred: Name → value, of further networks as ``discriminator.name``; the keys that were
            taken, passed over and left out are among them.
        assumed: Names of config entries that the file does not show.
        settings: More for the provenance.
    """

    layouts: list[str] = field(default_factory=list)
    networks: dict[str, Network] = field(default_factory=dict)
    inferred: dict[str, Any] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    settings: dict[str, Any] = field(default_factory=dict)


def read_tree(
    tree: Any,
    *,
    architecture: str | None = None,
    keys: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Reading:
    """Build the networks of an unpickled file.

    Args:
        tree: Plain containers, tensors and records, of any shape.
        architecture: The family that must be there; None takes whatever there is.
        keys: What to read of the file; none reads all that it holds.
        settings: What the user says of the networks.
    Raises:
        CheckpointError: It is of no known layout; several networks could be meant; or a tensor does
            not fit.
    """
    found = normalise.find(tree)
    if keys:
        found = normalise.pick(found, keys)
    layouts = [n for n, r in READERS.items() if architecture in (None, *r.architectures)]
    claims = _claims(found, layouts)
    if not claims:
        raise _unknown(tree, architecture, keys)
    given = settings or {}
    tried, failed = _tried(claims, layouts, given)
    taken = list(_assigned(list(tried) or claims))
    _check_keys(keys, taken)
    reading = Reading()
    for name, claim, passed_over in taken:
        conversion = tried.get(claim) or _converted(claim, given)
        _add(reading, name, claim, _with_settings(conversion, claim.role, given), passed_over)
    seen = [key for _, claim, passed_over in taken for key in (claim.found.key, *passed_over)]
    _tell_left_out(reading, found, seen, failed)
    return reading


def _claims(found: Sequence[Found], layouts: Sequence[str]) -> list[Claim]:
    """Return what readers recognise: those that go by names first, deep into the names."""
    by_names = [name for name in layouts if READERS[name].goes_by_names]
    by_shapes = [name for name in layouts if not READERS[name].goes_by_names]
    claims = [claim for one in found for claim in _search(one, by_names, _DEEPEST_PART)]
    return claims or [claim for one in found for claim in _search(one, by_shapes, 0)]


def _search(found: Found, layouts: Sequence[str], depth: int) -> Iterator[Claim]:
    for layout in layouts:
        if role := READERS[layout].recognises(found):
            yield Claim(found, layout, role)
            return
    if depth:
        for part in normalise.parts(found):
            yield from _search(part, layouts, depth - 1)


def _unknown(tree: Any, architecture: str | None, keys: Sequence[str]) -> CheckpointError:
    """Say that nothing is of a layout that could be read."""
    what = "of no known layout" if architecture is None else f"no {architecture} of a known layout"
    found = f"at {', '.join(map(printable, keys))}" if keys else f"it holds {_contents(tree)}"
    about = "; ".join(reader.about for reader in READERS.values()).replace("`", "")
    return CheckpointError(f"{what} ({found})", f"known: {about}")


def _converted(claim: Claim, settings: Mapping[str, Any]) -> Conversion:
    """Convert a network whose names count no further than networks do.

    Readers infer depths and sizes from the numbers in names, before they compare the tensors.

    Raises:
        CheckpointError: A name does, or see ``Reader.convert``.
    """
    for name in claim.found.state:
        for digits in re.findall(r"\d+", name[:_LONGEST_NAME]):
            if len(digits) > _MOST_DIGITS or int(digits) > _LARGEST_NUMBER:
                raise CheckpointError(
                    f"{printable(name)} has a number above {_LARGEST_NUMBER} in its name"
                )
    return READERS[claim.layout].convert(claim.found, settings)


_LARGEST_NUMBER = 2048
"""In the name of a tensor: what is highest in one is the side of a map, StyleGAN's b1024."""

_MOST_DIGITS, _LONGEST_NAME = 10, 1000


def _check_keys(keys: Sequence[str], taken: Sequence[tuple[str, Claim, list[str]]]) -> None:
    """Refuse keys of which one would be passed over for another.

    Raises:
        CheckpointError: There are such keys.
    """
    for name, claim, passed_over in taken:
        for key in passed_over:
            if key in keys and claim.found.key in keys:
                raise CheckpointError(
                    f"--key {printable(key)} and --key {printable(claim.found.key)} both name the"
                    f" {name}",
                    "pass one of them",
                )


def _with_settings(conversion: Conversion, role: str, settings: Mapping[str, Any]) -> Conversion:
    """Replace what was assumed by what the user says.

    Raises:
        UsageError: The network cannot be built with such a value.
    """
    chosen = {name: settings[name] for name in conversion.assumed if name in settings}
    network = conversion.network
    config = changed(network.config, chosen)
    if config != network.config:
        try:
            network = build_network(network.architecture, role, config, network.state_dict())
        except UsageError as error:
            raise SettingError(error.message, error.hint) from error
    said = {name: as_assumed(chosen, name, value) for name, value in chosen.items()}
    return replace(conversion, network=network, inferred=conversion.inferred | said)


def changed(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the settings that it, or its mapping network, has an entry for."""
    return {
        name: changed(value, settings) if name == "mapping_kwargs" else settings.get(name, value)
        for name, value in config.items()
    }


def _tried(
    claims: Sequence[Claim], layouts: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[Claim, Conversion], dict[str, CheckpointError]]:
    """Convert what was claimed by shapes: such a claim may be mistaken, or hold of a part alone.

    Returns:
        The conversions, of parts of a mistaken claim too; and key → why not, of what did not
        convert.
    Raises:
        CheckpointError: Nothing did.
    """
    tried: dict[Claim, Conversion] = {}
    failed: dict[str, CheckpointError] = {}
    waiting = deque(claim for claim in claims if not READERS[claim.layout].goes_by_names)
    while waiting:
        claim = waiting.popleft()
        try:
            tried[claim] = _converted(claim, settings)
        except CheckpointError as error:
            failed[claim.found.key] = error
            for part in normalise.parts(claim.found):
                waiting += _search(part, layouts, 0)
    if failed and not tried:
        raise next(iter(failed.values()))
    return tried, failed


def _assigned(claims: Sequence[Claim]) -> Iterator[tuple[str, Claim, list[str]]]:
    """Yield each network that is taken: its name in a model, itself, and the keys passed over.

    Averaged weights are preferred to raw ones.

    Raises:
        CheckpointError: Several could be meant.
    """
    for role in ("generator", "discriminator"):
        mine = [claim for claim in claims if claim.role == role]
        taken = [claim for claim in mine if not _has_average(claim, mine)]
        passed_over = [claim.found.key for claim in mine if claim not in taken]
        pair = _directions(taken, claims) if len(taken) == 2 else None
        if pair:
            yield role, pair[0], passed_over
            yield f"{role}_b", pair[1], []
        elif len(taken) > 1:
            names = ", ".join(printable(claim.found.key or normalise.ROOT) for claim in taken)
            raise CheckpointError(
                f"holds {len(taken)} networks that could be the {role}: {names}",
                "pick one: ganc import SRC --key NAME -o OUT",
            )
        elif taken:
            yield role, taken[0], passed_over


def _has_average(claim: Claim, claims: Sequence[Claim]) -> bool:
    """Whether a raw copy stands beside averaged weights of the same network."""
    averages = [other.found.key for other in claims if other.found.is_average]
    return not claim.found.is_average and any(
        normalise.is_counterpart(average, claim.found.key) for average in averages
    )


def _directions(pair: Sequence[Claim], claims: Sequence[Claim]) -> Sequence[Claim] | None:
    """Return a CycleGAN's two networks of one role, the first direction's first; None of others.

    Generators are called A and B, or AB and BA. A discriminator's letter is that of its generator
    in the first case, that of the images which it judges in the second.
    """
    marks = {normalise.direction(claim.found.key) or "": claim for claim in pair}
    is_two_way = all(READERS[claim.layout].architectures == TWO_WAY for claim in pair)
    if not is_two_way or set(marks) not in ({"A", "B"}, {"AB", "BA"}):
        return None
    ordered = [marks[mark] for mark in sorted(marks)]
    of_generators = {
        normalise.direction(claim.found.key) for claim in claims if claim.role == "generator"
    }
    judges_targets = pair[0].role == "discriminator" and "AB" in of_generators
    return ordered[::-1] if judges_targets else ordered


def _add(
    reading: Reading, name: str, claim: Claim, conversion: Conversion, passed_over: Sequence[str]
) -> None:
    """Take one network into the result."""
    prefix = f"{name}." if reading.networks else ""
    if claim.found.key:
        reading.inferred[name] = claim.found.key
    if passed_over:
        keys = ", ".join(key or normalise.ROOT for key in passed_over)
        reading.inferred[f"{prefix}passed_over"] = keys
    if claim.found.completed_from is not None:
        reading.inferred[f"{prefix}buffers"] = (
            f"from {claim.found.completed_from or normalise.ROOT}"
        )
    reading.inferred |= {f"{prefix}{key}": value for key, value in conversion.inferred.items()}
    if filled := len(claim.found.filled):
        note = f"{filled} num_batches_tracked, which are never used"
        reading.inferred[f"{prefix}filled"] = note
    if claim.layout not in reading.layouts:
        reading.layouts.append(claim.layout)
    reading.networks[name] = conversion.network
    reading.assumed |= conversion.assumed
    reading.settings |= conversion.settings


def _tell_left_out(
    reading: Reading,
    found: Sequence[Found],
    seen: Sequence[str],
    failed: Mapping[str, CheckpointError],
) -> None:
    """Say what of the file was not read: other networks, and tools' numbers among the tensors."""
    unread = [key for one in found for key in _unread(one, seen)]
    told = [
        f"{key} ({failed[key].message})" if key in failed else key for key in dict.fromkeys(unread)
    ]
    if told:
        reading.inferred["not_read"] = ", ".join(told)
    dropped = sum(len(one.dropped) for one in found)
    if dropped:
        reading.inferred["left_out"] = f"{dropped} numbers of tools, such as operation counts"


def _unread(found: Found, seen: Sequence[str]) -> Iterator[str]:
    """Yield the keys of what is neither read nor passed over."""
    start = f"{found.key}." if found.key else ""
    is_network = any(tensor.ndim > 1 for tensor in found.state.values())
    if found.key in seen or not is_network:
        return
    if found.key and not any(key.startswith(start) for key in seen):
        yield found.key
        return
    for first in dict.fromkeys(name.split(".", 1)[0] for name in found.state if "." in name):
        key = f"{start}{first}"
        if not any(other == key or other.startswith(f"{key}.") for other in seen):
            yield key


def _contents(tree: Any) -> str:
    keys = (
        [printable(key) for key in tree if isinstance(key, str)] if isinstance(tree, dict) else []
    )
    return ", ".join(keys[:4]) or type(tree).__name__
