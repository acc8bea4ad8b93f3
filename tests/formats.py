"""Every format that ganc writes and reads again, beside its checkpoints: sound files, and readers.

A reader does with a file what a command would do with it. The typed space of each
(``typed_space``) is walked by ``test_formats`` in part, by ``benchmarks/fuzz.py`` in full.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import ganc
from ganc.data.label_tables import read_label_file
from ganc.data.labels import read_labels
from ganc.data.opening import open_images
from ganc.distillation import run_folder
from ganc.distillation.evaluations import EvaluationLog
from ganc.distillation.recipe_file import read_recipe
from ganc.distillation.schedule import Best, resolve_schedule
from ganc.distillation.settings import Choices, resumed_settings
from ganc.evaluation.comparison import compare_results
from ganc.progress import ignore
from ganc.pruning.latency.cost_file import read_cost_file
from ganc.pruning.plan import make_plan
from ganc.pruning.slicing import PrunePlan
from ganc.scores import Scores
from ganc.scoring.density import neighbours
from tests.conftest import make_model
from tests.typed_space import TEXTS, variants

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: Of the file that is damaged.
        document: What a sound file holds, as JSON.
        inner: Its entries whose text is JSON again.
        write: Document, or any text, → the file.
        read: The file → what a command makes of it.
        path: Where the file is that ``write`` writes, if it is not the given one.
    """

    name: str
    document: Any
    inner: tuple[str, ...]
    write: Callable[[Any, Path], None]
    read: Read
    path: Path | None = None

    def cases(self) -> Iterator[Any]:
        """Yield documents with one part missing, or of another type."""
        yield from variants(self.document)
        for key in self.inner:
            for text in TEXTS:
                yield self.document | {key: text}
            for value in variants(json.loads(self.document[key])):
                yield self.document | {key: json.dumps(value)}


def write_json(document: Any, path: Path) -> None:
    """Write JSON, NaN included."""
    path.write_text(json.dumps(document))


def write_toml(document: Any, path: Path) -> None:
    """Write the entries of a document as TOML; a value that it does not have is left as text."""
    entries = document.items() if isinstance(document, dict) else [("base", document)]
    lines = [f"{json.dumps(key)} = {_toml(value)}" for key, value in entries]
    path.write_text("\n".join(lines))


def _toml(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "null" if value is None else json.dumps(value)


class _Safetensors:
    """Writes a safetensors file with other metadata."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        self.table, self.body = json.loads(content[8 : 8 + length]), content[8 + length :]
        self.metadata: dict[str, str] = self.table.pop("__metadata__")

    def __call__(self, document: Any, path: Path) -> None:
        text = json.dumps({"__metadata__": document, **self.table}).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(struct.pack("<Q", len(text)) + text + self.body)


def formats(folder: Path) -> list[Format]:
    """Write sound files into a folder, which stays; return their formats."""
    model = make_model()
    student = ganc.prune(model, ganc.score(model, "l1-out", device="cpu"), prune_ratio=0.4)
    ganc.distill(
        student, model, folder / "run", steps=1, device="cpu",
        overrides={"batch": 2, "perceptual": "none"},
    )  # fmt: skip
    return [
        _scores(model, folder), _neighbourhoods(folder), _result(model), _recipe(), _state(folder),
        _series(folder), _labels(), _dataset(folder), _plan(), _costs(),
    ]  # fmt: skip


def _scores(model: ganc.Model, folder: Path) -> Format:
    path = folder / "sound.scores.safetensors"
    sound = ganc.score(model, "l1-out", device="cpu")
    thresholds = dict.fromkeys(sound.keys(), 0.5)
    Scores(dict(sound), "l1-out", sound.settings, sound.content_hash, thresholds).save(path)
    write = _Safetensors(path)

    def read(path: Path) -> object:
        return make_plan(model, Scores.load(path), prune_ratio=0.5)

    inner = ("groups", "settings", "thresholds")
    return Format("scores.safetensors", write.metadata, inner, write, read)


def _neighbourhoods(folder: Path) -> Format:
    path = folder / "sound.neighbourhoods.safetensors"
    features = torch.randn(6, 4)
    found, radii = neighbours.nearest(features, 2)
    identity = {"encoder": "pixels", "data": "0" * 64}
    hoods = neighbours.Neighbourhoods(found, radii, features, identity)
    neighbours.save(path, {"generator": hoods})
    write = _Safetensors(path)

    def read(path: Path) -> object:
        sides = neighbours.load(path)
        for own in sides.values():
            neighbours.check_identity(path, own.identity, identity)
        return sides

    return Format("neighbourhoods.safetensors", write.metadata, ("sides",), write, read)


def _result(model: ganc.Model) -> Format:
    result = ganc.evaluate(model, ["macs", "params"], device="cpu")
    document = json.loads(json.dumps(result))

    def read(path: Path) -> object:
        return compare_results(result, path)

    return Format("result.json", document, (), write_json, read)


def _recipe() -> Format:
    document = {
        "base": "stylekd", "batch": 4, "lr": 0.001, "perceptual": "none", "mirror": True,
        "noise": "fresh", "lr-decay": 0.5,
    }  # fmt: skip
    return Format("recipe.toml", document, (), write_toml, lambda path: read_recipe(path).to_json())


def _state(folder: Path) -> Format:
    checkpoint = folder / "run" / "checkpoints" / "1"
    path = checkpoint / "state.json"
    document = json.loads(path.read_text())
    del document["sha256"]

    def write(document: Any, path: Path) -> None:
        if isinstance(document, dict):  # signed anew, so that its checksum finds nothing
            document = document | {"sha256": run_folder._digest(document)}
        write_json(document, checkpoint / "state.json")

    def read(path: Path) -> object:
        state = run_folder._read_state(checkpoint)
        schedule = resolve_schedule({}, state["schedule"])
        settings = resumed_settings(
            Choices(), state["settings"], "run", "stylegan2", has_teacher=True
        )
        return schedule.checkpoints, settings.to_json()

    return Format("state.json", document, (), write, read, checkpoint / "state.json")


def _series(folder: Path) -> Format:
    own = folder / "series"
    own.mkdir()

    def write(document: Any, path: Path) -> None:
        (own / "evaluations.jsonl").write_text(json.dumps(document) + "\n")

    def read(path: Path) -> object:
        log = EvaluationLog(own, 5)
        return log.last, log.best(Best("fd"), [1, 2])

    document = {"step": 1, "images": 16, "fd": 3.5}
    return Format("evaluations.jsonl", document, (), write, read, own / "evaluations.jsonl")


def _labels() -> Format:
    document = {"labels": [["a.png", [0.5, 1]], ["b.png", [-2, 0]]]}
    return Format("labels.json", document, (), write_json, read_label_file)


def _dataset(folder: Path) -> Format:
    own = folder / "labelled"
    own.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(own / name)

    def write(document: Any, path: Path) -> None:
        write_json(document, own / "dataset.json")

    def read(path: Path) -> object:
        return read_labels(open_images(own, ignore), ["a.png", "b.png"])

    document = {"labels": [["a.png", 0], ["b.png", 2]]}
    return Format("dataset.json", document, (), write, read, own / "dataset.json")


def _read_plan(path: Path) -> object:
    return PrunePlan.from_json(path.read_text(errors="replace"))


def _plan() -> Format:
    document = {"keep": {"b4.const": [0, 2]}, "settings": {"method": "l1-out"}}
    return Format("plan.json", document, (), write_json, _read_plan)


def _costs() -> Format:
    document = {"machine": {"processor": "fake", "threads": 2}, "costs": {"0f": 1.5}}
    return Format("costs.json", document, (), write_json, read_cost_file)
