"""Loading and saving checkpoints: ganc's own and everybody else's, recognised from content."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ganc.checkpoints import (
    junyanz,
    mimicry,
    native,
    nvidia,
    nvidia_tensors,
    pickles,
    rosinality,
    torch_file,
)
from ganc.checkpoints.foreign import Conversion, Reader, describe, exported_history
from ganc.checkpoints.refusals import one_line, printable
from ganc.errors import CheckpointError, UsageError, unknown_name
from ganc.files import atomic_write
from ganc.models.model import ARCHITECTURES, Model, build_network
from ganc.models.network import Network
from ganc.progress import Warn, ignore
from ganc.version import __version__

READERS: dict[str, Reader] = {
    "rosinality": Reader(("stylegan2",), rosinality.recognises, rosinality.convert),
    "nvidia": Reader(("stylegan2", "stylegan3"), nvidia.recognises, nvidia.convert),
    "nvidia_tensors": Reader(
        ("stylegan2", "stylegan3"), nvidia_tensors.recognises, nvidia_tensors.convert
    ),
    "mimicry": Reader(("sngan",), mimicry.recognises, mimicry.convert),
    "junyanz": Reader(
        ("resnet_translator", "unet_translator", "patchgan"), junyanz.recognises, junyanz.convert
    ),
}

TWO_WAY = ("resnet_translator", "unet_translator", "patchgan")
"""Architectures of which a checkpoint may hold two: a CycleGAN's directions."""


def load(
    source: str | Path | BinaryIO, *, architecture: str | None = None, note: Warn = ignore
) -> Model:
    """Load a checkpoint: ganc's own format or a foreign one. No code from the file ever runs.

    Args:
        source: A path, or a binary stream to read to its end.
        architecture: Overrides the detection of a foreign layout.
        note: Told, in one line, which layout a foreign file has and what was inferred.
    Returns:
        The model, all networks in eval mode on the CPU.
    Raises:
        CheckpointError: The file cannot be read, is damaged, or is of no known layout.
        UsageError: ``architecture`` is not known.
    """
    where, content = _read(source)
    if architecture is not None and architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    if content[8:9] == b"{":
        return native.from_bytes(content, where)
    tree = _read_tree(content, where)
    conversion, layout = _convert(tree, architecture, where)
    note(f"{where}: {layout} layout, inferred {describe(conversion.inferred)}")
    step = {
        "command": "import",
        "layout": layout,
        "source": Path(where).name,
        "source_sha256": hashlib.sha256(content).hexdigest(),
        "inferred": conversion.inferred,
        **conversion.settings,
        "ganc": __version__,
    }
    return Model(**conversion.networks, provenance=[*exported_history(tree), step])


def import_checkpoints(
    sources: Sequence[str | Path | BinaryIO],
    *,
    architecture: str | None = None,
    settings: Mapping[str, Any] | None = None,
    note: Warn = ignore,
) -> Model:
    """Load one checkpoint, or join several that hold different networks of one model.

    Of two translators in two files the second becomes ``generator_b``, and of two patch
    discriminators the second ``discriminator_b``: a CycleGAN's four files are given in the order
    G_A, D_A, G_B, D_B, or G_A, G_B, D_A, D_B.

    Args:
        sources: Files or binary streams, ours or foreign.
        architecture, note: See ``load``.
        settings: Entries of the networks' configs that no file records and that were assumed
            wrongly ("norm_statistics", "img_resolution"); of every network that has them.
    Raises:
        CheckpointError: See ``load``; or two files hold the same network, or the tensors do not fit
            a setting.
        UsageError: No network has a setting, or not with such a value.
    """
    joined: dict[str, Any] = {}
    provenance: list[dict[str, Any]] = []
    for source in sources:
        model = load(source, architecture=architecture, note=note)
        for name, network in model.networks():
            if name in joined and network.architecture in TWO_WAY:
                name = f"{name}_b"
            if name in joined:
                raise CheckpointError(
                    f"{source} holds a {name}, and so does a file before it",
                    "import them into separate checkpoints",
                )
            joined[name] = network
        provenance += model.provenance
    if settings:
        joined = _with_settings(joined, settings)
        provenance.append({"command": "set", "settings": dict(settings), "ganc": __version__})
    return Model(**joined, provenance=provenance)


def _with_settings(
    networks: Mapping[str, Network], settings: Mapping[str, Any]
) -> dict[str, Network]:
    """Rebuild the networks whose configs have one of the settings with its new value."""
    known = {key: None for network in networks.values() for key in network.config}
    for key in settings:
        if key not in known or key == "widths":
            raise unknown_name("setting", key, [name for name in known if name != "widths"])
    rebuilt = {}
    for name, network in networks.items():
        changed = {key: value for key, value in settings.items() if key in network.config}
        config = network.config | changed
        rebuilt[name] = build_network(network.architecture, name, config, network.state_dict())
    return rebuilt


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
        return getattr(source, "name", "the stream"), source.read()
    path = Path(source)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file")
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_tree(content: bytes, where: str) -> Any:
    """Unpickle a foreign file into plain containers, tensors and records; run nothing."""
    if content.startswith((torch_file.ZIP_MAGIC, torch_file.LEGACY_MAGIC)):
        return torch_file.read(content, where)
    if pickles.recognises(content):
        return pickles.read(content, where)
    start = "empty" if not content else f"starting with {content[:8]!r}"
    raise CheckpointError(
        f"{where} is no checkpoint ({start})", "expected a .safetensors, .pt, .pth or .pkl file"
    )


def _convert(tree: Any, architecture: str | None, where: str) -> tuple[Conversion, str]:
    for layout, reader in READERS.items():
        if architecture is not None and architecture not in reader.architectures:
            continue
        if reader.recognises(tree):
            try:
                conversion = reader.convert(tree)
            except (CheckpointError, UsageError) as error:  # a config that no network can have
                raise CheckpointError(f"{where}: {one_line(str(error))}", error.hint) from error
            _check_architecture(conversion, architecture, where)
            return conversion, layout
    keys = [printable(k) for k in tree if isinstance(k, str)] if isinstance(tree, dict) else []
    found = ", ".join(keys[:4]) or type(tree).__name__
    raise CheckpointError(
        f"{where} is of no known layout (it holds {found})", f"known: {', '.join(READERS)}"
    )


def _check_architecture(conversion: Conversion, wanted: str | None, where: str) -> None:
    found = {network.architecture for network in conversion.networks.values()}
    if wanted is not None and wanted not in found:
        raise CheckpointError(f"{where} holds {', '.join(sorted(found))}, not {wanted}")
