"""Loading and saving checkpoints: ganc's own and everybody else's, recognised from content."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from ganc.checkpoints import foreign_file, native
from ganc.checkpoints.foreign import SettingError, describe, exported_history
from ganc.checkpoints.header import is_other_program
from ganc.checkpoints.readers import TWO_WAY, changed, read_tree
from ganc.checkpoints.refusals import one_line
from ganc.errors import CheckpointError, UsageError, unknown_name
from ganc.files import atomic_write, read_stream, read_whole
from ganc.models.model import ARCHITECTURES, Model, build_network
from ganc.models.network import Network
from ganc.progress import Warn, ignore
from ganc.version import __version__

_STRUCTURE = ("widths", "mapping_kwargs")
"""Entries of a config that are no settings of their own."""


def load(
    source: str | Path | BinaryIO,
    *,
    architecture: str | None = None,
    keys: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    note: Warn = ignore,
) -> Model:
    """Load a checkpoint: ganc's own format or a foreign one. No code from the file ever runs.

    Args:
        source: A path, or a binary stream to read to its end.
        architecture: Overrides the detection of a foreign layout.
        keys: What to read of a foreign file that holds several networks: keys as messages name
            them ("ema_state_dict", "state_dict.decoder"). None takes all, of a raw and an averaged
            copy the average.
        settings: What a foreign file does not record, where the usual value is wrong.
        note: Told, in one line, which layout a foreign file has and what was inferred.
    Returns:
        The model, all networks in eval mode on the CPU.
    Raises:
        CheckpointError: The file cannot be read, is damaged, is of no known layout, or holds
            several networks that could be meant.
        UsageError: ``architecture`` is not known, or a setting is no value.
    """
    opened = _open(source, architecture, keys, settings or {})
    _check_settings(settings or {}, [opened])
    if opened.note:
        note(opened.note)
    return opened.model


class _Opened(NamedTuple):
    """A loaded file.

    Attributes:
        model: With the settings, as far as they are of this file.
        settable: Names of config entries that the user may set.
        shown: Those that the file shows.
        note: What to tell the user.
    """

    model: Model
    settable: set[str]
    shown: dict[str, Any]
    note: str


def _open(
    source: str | Path | BinaryIO,
    architecture: str | None,
    keys: Sequence[str],
    settings: Mapping[str, Any],
) -> _Opened:
    where, content = _read(source)
    if architecture is not None and architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    foreign_file.refuse_mistaken(content, where)
    is_native = foreign_file.is_safetensors(content)
    if is_native and not is_other_program(foreign_file.header_text(content)):
        if keys:
            raise UsageError(f"--key goes with foreign files, {where} is ganc's own")
        model = native.from_bytes(content, where)
        _check_finite(model, where)
        return _own(model, settings)
    tree = foreign_file.read(content, where)
    try:
        reading = read_tree(tree, architecture=architecture, keys=keys, settings=settings)
    except SettingError:
        raise
    except (CheckpointError, UsageError) as error:  # a config that no network can have
        raise CheckpointError(f"{where}: {one_line(str(error))}", error.hint) from error
    _check_architecture(reading.networks, architecture, where)
    layout = ", ".join(reading.layouts)
    step = {
        "command": "import",
        "layout": layout,
        "source": Path(where).name,
        "source_sha256": hashlib.sha256(content).hexdigest(),
        "inferred": reading.inferred,
        **reading.settings,
        "ganc": __version__,
    }
    model = Model(**reading.networks, provenance=[*exported_history(tree), step])
    _check_finite(model, where)
    told = f"{where}: recognised as {layout}{one_line(describe(reading.inferred))}"
    return _Opened(model, reading.assumed, _entries(model), told)


def _check_finite(model: Model, where: str) -> None:
    for name, tensor in model.tensors().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{where}: {name} holds values that are not finite",
                "the training that wrote it had diverged: take an earlier checkpoint",
            )


def _own(model: Model, settings: Mapping[str, Any]) -> _Opened:
    """Return one of our files, of which every entry may be set that its tensors allow."""
    settable = set(_entries(model))
    if not settings:
        return _Opened(model, settable, {}, "")
    networks = {
        name: build_network(
            network.architecture, name, changed(network.config, settings), network.state_dict()
        )
        for name, network in model.networks()
    }  # fmt: skip
    own = Model(**networks, provenance=model.provenance)
    return _Opened(own, settable, {}, "")


def _entries(model: Model) -> dict[str, Any]:
    """Return the config entries of a model's networks, those of mapping networks among them."""
    entries: dict[str, Any] = {}
    for _, network in model.networks():
        inner = network.config.get("mapping_kwargs", {})
        entries = {**network.config, **inner, **entries}
    return {name: value for name, value in entries.items() if name not in _STRUCTURE}


def _check_settings(settings: Mapping[str, Any], opened: Sequence[_Opened]) -> None:
    """Refuse settings that no file has left open.

    Raises:
        UsageError: There is one; the message says what the file shows instead.
    """
    settable = dict.fromkeys(name for one in opened for name in sorted(one.settable))
    for name in settings:
        if name in settable:
            continue
        for one in opened:
            if name in one.shown:
                raise UsageError(
                    f"--set {name}: the file says {one.shown[name]}, only what it does not say can"
                    " be set",
                    f"here that is {', '.join(settable)}" if settable else "leave it out",
                )
        raise unknown_name("setting", name, settable)


def import_checkpoints(
    sources: Sequence[str | Path | BinaryIO],
    *,
    architecture: str | None = None,
    keys: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    note: Warn = ignore,
) -> Model:
    """Load one checkpoint, or join several that hold different networks of one model.

    Of two translators in two files the second becomes ``generator_b``, and of two patch
    discriminators the second ``discriminator_b``: a CycleGAN's four files are given in the order
    G_A, D_A, G_B, D_B, or G_A, G_B, D_A, D_B.

    Args:
        sources: Files or binary streams, ours or foreign.
        architecture, keys, note: See ``load``.
        settings: Entries of the networks' configs that no file records and that were assumed
            wrongly ("norm_statistics", "img_resolution", "lr_multiplier"); of every network that
            has them.
    Raises:
        CheckpointError: See ``load``; or two files hold the same network, or the tensors do not fit
            a setting.
        UsageError: No network has a setting, or not with such a value.
    """
    opened = [_open(source, architecture, keys, settings or {}) for source in sources]
    _check_settings(settings or {}, opened)
    joined: dict[str, Any] = {}
    provenance: list[dict[str, Any]] = []
    for source, one in zip(sources, opened, strict=True):
        if one.note:
            note(one.note)
        for name, network in one.model.networks():
            if name in joined and network.architecture in TWO_WAY:
                name = f"{name}_b"
            if name in joined:
                raise CheckpointError(
                    f"{source} holds a {name}, and so does a file before it",
                    "import them into separate checkpoints",
                )
            joined[name] = network
        provenance += one.model.provenance
    if settings:
        provenance.append({"command": "set", "settings": dict(settings), "ganc": __version__})
    return Model(**joined, provenance=provenance)


def save(model: Model, path: str | Path | BinaryIO, *, force: bool = False) -> None:
    """Save a model as one ganc checkpoint, atomically.

    Args:
        path: Where to, usually ``*.safetensors``; or a binary stream.
        force: Overwrite a file that exists.
    Raises:
        OutputError: The file exists, or cannot be written; nothing is left half-written.
    """
    content = native.to_bytes(model)
    if not isinstance(path, str | Path):
        path.write(content)
        return
    with atomic_write(Path(path), force=force) as temporary:
        temporary.write_bytes(content)


def _read(source: str | Path | BinaryIO) -> tuple[str, bytes]:
    if not isinstance(source, str | Path):
        where = getattr(source, "name", "the stream")
        return where, read_stream(source, where)
    return str(source), read_whole(source, CheckpointError)


def _check_architecture(networks: Mapping[str, Network], wanted: str | None, where: str) -> None:
    found = {network.architecture for network in networks.values()}
    if wanted is not None and wanted not in found:
        raise CheckpointError(f"{where} holds {', '.join(sorted(found))}, not {wanted}")
