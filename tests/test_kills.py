"""What a kill leaves of an evaluation, an export, a search: nothing by halves, whenever it comes.

``tests/distillation/test_faults.py`` has the same of a training run.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from ganc import cli
from ganc.checkpoints.store import save
from ganc.files import atomic_write, is_temporary
from tests import forked
from tests.conftest import Outcome, make_model
from tests.families import make_unet
from tests.scoring.density.cases import FLAGS, write_pairs

Ganc = Callable[..., Outcome]
CHANGES = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.truncate")


def photographed(folder: Path, album: Path, words: list[str]) -> None:
    """Be ``ganc WORDS`` in a folder, which is copied before and after everything done to a file.

    A copy is what a kill at that moment would leave: what the system was told stays done, and no
    lock outlives its process.
    """
    count, is_busy = 0, False

    def look(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count, is_busy
        is_write = event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not is_busy and (event in CHANGES or event == "os.fsync" or is_write):
            is_busy = True
            shutil.copytree(folder, album / str(count))
            count, is_busy = count + 1, False

    fsync = os.fsync

    def synced(descriptor: int) -> None:
        look("os.fsync", ())
        fsync(descriptor)

    os.fsync = synced
    os.chdir(folder)
    sys.addaudithook(look)  # for good: this process is the child's
    assert cli.run([*words, "--quiet"]) == 0


def pictures(tmp_path: Path, folder: Path, words: str) -> list[Path]:
    """Return the folder as it was at every moment of a command, and as it is at the end."""
    album = tmp_path / "album"
    album.mkdir()
    assert forked.exit_code(forked.start(photographed, folder, album, words.split())) == 0
    taken = sorted(album.iterdir(), key=lambda path: int(path.name))
    return [*taken, folder]


def written(folder: Path) -> list[str]:
    """Return the names in a folder, those of temporary files left out."""
    return sorted(name for name in os.listdir(folder) if not is_temporary(name))


@pytest.mark.parametrize(
    "words",
    ["eval m.safetensors --metrics macs --report x", "export m.safetensors --format onnx -o x",
     "export m.safetensors --format torch -o x"],
)  # fmt: skip
def test_a_kill_leaves_an_output_whole_or_none(tmp_path: Path, words: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save(make_model(), folder / "m.safetensors")
    found = pictures(tmp_path, folder, words)
    whole, half = (folder / "x").read_bytes(), 0
    assert len(found) > 6
    for picture in found:
        half += len(left := set(os.listdir(picture)) - {"m.safetensors", "x"})
        assert all(map(is_temporary, left))
        if (picture / "x").exists():
            assert (picture / "x").read_bytes() == whole
        with atomic_write(picture / "x", force=True) as temporary:  # the next to write the file
            temporary.write_bytes(b"")
        assert sorted(os.listdir(picture)) == ["m.safetensors", "x"]
    assert half > 4


def test_a_kill_leaves_a_search_that_goes_on(
    ganc: Ganc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save(make_unet(), folder / "m.safetensors")
    data = write_pairs(tmp_path / "pairs", 6)
    words = (
        f"score m.safetensors --method density --data {data} {' '.join(FLAGS)} --log x.jsonl"
        " -o x --neighbourhoods x.n --device cpu"
    )
    found = pictures(tmp_path, folder, words)
    names = ["m.safetensors", "x", "x.jsonl", "x.n"]
    assert written(folder) == names
    stages = {}
    for picture in found:
        for name in set(written(picture)) - {"x.jsonl"}:
            with safe_open(picture / name, framework="pt") as file:  # its sizes fit
                assert file.keys()
        stages.setdefault(tuple(written(picture)), picture)
    assert len(stages) > 4  # neighbourhoods, log, state, scores
    for stage, picture in stages.items():
        monkeypatch.chdir(picture)
        extra = ["--resume"] if "x.state" in stage else []
        done = ganc(*words.split(), "--quiet", "--force", *extra)
        assert done.code == 0, done.err
        assert sorted(os.listdir(picture)) == names
        for name in names:
            assert (picture / name).read_bytes() == (folder / name).read_bytes()
