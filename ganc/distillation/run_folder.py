"""The folder of a run: who may use it, what lies in it, and its checkpoints.

    recipe.json  metrics.jsonl  evaluations.jsonl  samples/  events…  student.safetensors
    checkpoints/<step>/{student,ema,optimizers,trainer}.safetensors, state.json

A checkpoint is written into a temporary folder and renamed, so one that is there is complete;
``state.json`` holds the SHA-256 of the other files and of itself, so damage is noticed.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import filelock
import safetensors.torch
from msgspec import Meta
from safetensors import SafetensorError
from torch import Tensor

from ganc import collectives, strict_json
from ganc.checkpoints import native
from ganc.checkpoints.store import load
from ganc.distillation.schedule import Schedule
from ganc.errors import CheckpointError, InputError, OutputError
from ganc.files import (
    atomic_write,
    file_sha256,
    is_temporary,
    remove_leftovers,
    sync_folder,
    write_error,
)
from ganc.models.model import Model
from ganc.progress import Warn

CHECKPOINTS, METRICS, RECIPE, SAMPLES, STUDENT = (
    "checkpoints", "metrics.jsonl", "recipe.json", "samples", "student.safetensors",
)  # fmt: skip
EVALUATIONS = "evaluations.jsonl"
LATEST = "latest"

_LOCK, _STATE, _TEMPORARY = ".lock", "state.json", ".tmp-"
_CONTENT = ("student.safetensors", "ema.safetensors", "optimizers.safetensors",
            "trainer.safetensors")  # fmt: skip
"""The other files of a checkpoint."""


class SavedSettings(TypedDict):
    """``TrainingSettings.to_json``."""

    recipe: dict[str, Any]
    seed: int
    data: str
    data_b: str | None
    swap: bool
    unpaired: bool | None
    resize: bool


class DataIdentity(TypedDict):
    """Hashes of the real images and, where the networks read them, of their labels."""

    data: str
    labelling: NotRequired[str]


class Identity(DataIdentity):
    """What a run was started with: hashes, and where the teacher was."""

    teacher_path: str | None
    student: str
    teacher: str | None


class RunState(TypedDict):
    """What ``state.json`` says beside the hashes of the other files."""

    step: Annotated[int, Meta(ge=0)]
    steps: int
    schedule: dict[str, Any]
    images: int
    losses: dict[str, float]
    settings: SavedSettings
    identity: Identity
    ganc: str


class _StateFile(TypedDict):
    sha256: str
    files: dict[str, str]
    state: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next step reads.

    Attributes:
        student: The networks in training.
        ema: The generators' running averages.
        optimizers: States of the optimisers by parameter.
        trainer: What else a step reads: the mean path length, past images.
        state: Step, images, settings, hashes.
    """

    student: Model
    ema: Model
    optimizers: dict[str, Tensor]
    trainer: dict[str, Tensor]
    state: RunState

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state["step"]


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Create a run folder where there is none, and keep other runs out of it meanwhile.

    The lock is the operating system's and ends with the process, however that ends. A folder that
    was created here and stayed empty is removed again.

    Of the processes of one run the first one holds it.

    Raises:
        OutputError: Another process works in it, or it cannot be created.
    """
    if collectives.rank():
        collectives.barrier()
        yield
        return
    created = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        lock = filelock.FileLock(folder / _LOCK).acquire(blocking=False)
    except FileNotFoundError as error:
        raise OutputError(
            f"folder {folder.parent} does not exist", f"mkdir -p {folder.parent}"
        ) from error
    except filelock.Timeout as error:
        raise OutputError(
            f"{folder} is in use by another process",
            "wait for it, stop it, or name another folder with -o",
        ) from error
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        with lock:
            collectives.barrier()
            yield
    finally:
        if created and set(os.listdir(folder)) <= {_LOCK}:
            shutil.rmtree(folder)


def check_unused(folder: Path) -> None:
    """Refuse a folder that holds anything but what a start that was killed at once leaves.

    Raises:
        OutputError: It holds a run, or other files.
    """
    ours = {_LOCK, CHECKPOINTS, RECIPE}
    if steps(folder):
        raise OutputError(
            f"{folder} holds a run already, at step {steps(folder)[-1]}",
            "pass --resume latest to continue it, or name another folder with -o",
        )
    others = sorted(n for n in os.listdir(folder) if n not in ours and not is_temporary(n))
    if others:
        raise OutputError(
            f"{folder} is not empty (it holds {others[0]})", "name a new folder with -o"
        )


def check_space(folder: Path, student: Model, count: int) -> None:
    """Check that the checkpoints to come, ``count`` of them, fit on the disk.

    One holds the networks, the average and two moments of every parameter; one more than ``count``
    exists while the newest is written, and so does the exported student.

    Raises:
        OutputError: They do not fit.
    """
    bytes_of = sum(tensor.nbytes for tensor in student.tensors().values())
    needed = 4 * bytes_of * (count + 2)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 2**20:.1f} MiB free, the run needs {needed / 2**20:.1f} MiB",
            "free some space, or lower --keep-last",
        )


def steps(folder: Path) -> list[int]:
    """Return the steps of the complete checkpoints, ascending."""
    found = folder / CHECKPOINTS
    names = os.listdir(found) if found.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def save_snapshot(
    folder: Path, snapshot: Snapshot, keep_last: int, keep_also: Collection[int] = ()
) -> Path:
    """Write a checkpoint completely or not at all; drop the oldest beyond ``keep_last``.

    Args:
        keep_also: Steps whose checkpoints stay however old they are.
    Raises:
        OutputError: It cannot be written (a full disk); the checkpoints before are untouched.
    """
    target = folder / CHECKPOINTS / str(snapshot.step)
    temporary = target.with_name(f"{_TEMPORARY}{snapshot.step}")
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, snapshot)
        sync_folder(temporary)
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for step in steps(folder)[:-keep_last]:
        if step not in keep_also:
            drop_checkpoint(folder, step)
    return target


def drop_checkpoint(folder: Path, step: int) -> None:
    """Remove a checkpoint: at any moment it is there whole, or not at all."""
    path = folder / CHECKPOINTS / str(step)
    leftover = path.with_name(f"{_TEMPORARY}{step}")
    path.replace(leftover)
    shutil.rmtree(leftover)


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    written = (
        native.to_bytes(snapshot.student), native.to_bytes(snapshot.ema),
        _tensor_bytes(snapshot.optimizers), _tensor_bytes(snapshot.trainer),
    )  # fmt: skip
    contents = dict(zip(_CONTENT, written, strict=True))
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    body = {"state": snapshot.state, "files": files}
    contents[_STATE] = json.dumps(body | {"sha256": _digest(body)}, indent=1).encode()
    for name, content in contents.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(own)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def load_snapshot(folder: Path, resume: str | os.PathLike[str], warn: Warn) -> Snapshot:
    """Read a checkpoint.

    Args:
        folder: The run.
        resume: ``LATEST``, or the folder of one of its checkpoints. A damaged newest one is named
            and the one before is taken; a damaged one that was asked for is an error.
    Raises:
        InputError: There is no checkpoint, or it is not one of this run.
        CheckpointError: It is damaged.
    """
    if resume != LATEST:
        path = Path(resume)
        if path.resolve().parent != (folder / CHECKPOINTS).resolve():
            raise InputError(
                f"--resume {resume} is not a checkpoint of {folder}",
                f"pass latest, or one of {folder / CHECKPOINTS}/<step>",
            )
        return _read_snapshot(path)
    for step in reversed(steps(folder)):
        try:
            return _read_snapshot(folder / CHECKPOINTS / str(step))
        except CheckpointError as error:
            warn(f"{error}; trying the checkpoint before it")
    raise InputError(f"{folder} holds no complete checkpoint", "start it again without --resume")


def _read_snapshot(path: Path) -> Snapshot:
    state = _read_state(path)
    student, ema, optimizers, trainer = (path / name for name in _CONTENT)
    try:
        return Snapshot(
            student=load(student),
            ema=load(ema),
            optimizers=safetensors.torch.load_file(optimizers),
            trainer=safetensors.torch.load_file(trainer),
            state=state,
        )
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _read_state(path: Path) -> RunState:
    """Check every file of a checkpoint against its recorded hash; return the state."""

    def refuse(finding: str) -> CheckpointError:
        return CheckpointError(f"{path / _STATE} is damaged: {finding}")

    try:
        text = (path / _STATE).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a complete checkpoint: no {_STATE}") from error
    except OSError as error:
        raise refuse(str(error.strerror or error)) from error
    body = strict_json.parse(text, "it", refuse)
    file = strict_json.typed(body, _StateFile, "its content", refuse)
    recorded = body.pop("sha256")
    if recorded != _digest(body):
        raise refuse("it does not match its checksum")
    missing = [name for name in _CONTENT if name not in file["files"]]
    if missing or set(file["files"]) - set(_CONTENT):
        raise refuse(f"it does not tell the hashes of {', '.join(_CONTENT)}")
    for name, expected in file["files"].items():
        try:
            found = file_sha256(path / name)
        except InputError as error:
            raise CheckpointError(str(error)) from error
        if found != expected:
            raise CheckpointError(f"{path / name} is damaged: it does not match its checksum")
    state = strict_json.typed(file["state"], RunState, "its state", refuse)
    schedule = strict_json.typed(state["schedule"], Schedule, "its schedule", refuse)
    return {**state, "schedule": schedule.to_json()}


def prepare(folder: Path, recipe: Mapping[str, Any], start: int) -> None:
    """Make a folder ready for a run that goes on from step ``start``.

    What a killed run was writing is removed, and so are checkpoints beyond ``start``: damaged ones,
    and those of a future that ``--resume PATH`` gave up. Left there they would be "latest" again.
    The resolved recipe is written for people to read.
    """
    if collectives.rank():
        return
    for path in (folder / CHECKPOINTS).glob(f"{_TEMPORARY}*"):
        if path.name.removeprefix(_TEMPORARY).isdecimal():  # others are the user's
            shutil.rmtree(path)
    for place in (folder, folder / SAMPLES):
        remove_leftovers(place)
    for step in reversed(steps(folder)):
        if step > start:
            drop_checkpoint(folder, step)
    with atomic_write(folder / RECIPE, force=True) as temporary:
        temporary.write_text(json.dumps(recipe, indent=2) + "\n")


def export_student(folder: Path, model: Model) -> Path:
    """Replace the run's student, atomically."""
    path = folder / STUDENT
    content = native.to_bytes(model)
    with atomic_write(path, force=True) as temporary:
        temporary.write_bytes(content)
    return path
