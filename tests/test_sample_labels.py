"""``ganc sample --labels``: classes, vectors, files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganc import seeds
from ganc.checkpoints.store import save
from ganc.data.grid import make_grid, to_picture, zoom_for
from ganc.sampling import sample
from tests.conftest import Outcome, make_model

Ganc = Callable[..., Outcome]
FILES: dict[str, Any] = {
    "classes.json": [1, 0],
    "vectors.json": [[0.5, 1], [-2, 0]],
    "dataset.json": {"labels": [["b.png", [0.5, 1]], ["a.png", [-2, 0]]]},
    "long.json": [[1, 2, 3]],
    "five.json": [5],
    "empty.json": [],
}


@pytest.fixture
def conditional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of two classes, in the current folder with files of labels."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_text(json.dumps(content))
    save(make_model(c_dim=2), path := tmp_path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["--labels", "1"], [1]),
        (["--labels", "0-1,1"], [0, 1, 1]),
        (["--labels", "0.5,1;-2,0"], [[0.5, 1], [-2, 0]]),
        (["--labels", "0.5, 1 ; -2e0, 0;"], [[0.5, 1], [-2, 0]]),
        (["--labels", "0,1;"], [[0, 1]]),  # one vector, not two classes
        (["--labels", "-1,0.5;"], [[-1, 0.5]]),
        (["--labels=-1,0.5;"], [[-1, 0.5]]),
        (["--labels", "classes.json"], [1, 0]),
        (["--labels", "vectors.json"], [[0.5, 1], [-2, 0]]),
        (["--labels", "dataset.json"], [[0.5, 1], [-2, 0]]),
    ],
)
def test_forms(ganc: Ganc, conditional: Path, arguments: list[str], labels: list[Any]) -> None:
    outcome = ganc("sample", conditional, "-o", "grid.png", "-n", 3, "--columns", 3, *arguments,
                   "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    stored = json.loads(outcome.out)["settings"]["labels"]
    assert stored == (arguments[1] if arguments[-1].endswith(".json") else labels)
    model = make_model(c_dim=2).generator
    rows = [labels[i % len(labels)] for i in range(3)]
    c = torch.eye(2)[rows] if isinstance(labels[0], int) else torch.tensor(rows).float()
    with torch.no_grad():
        expected = model(seeds.normal(0, "latents", range(3), (6,)), c, noise_mode="const")
    picture = to_picture(make_grid(expected, columns=3), zoom=zoom_for(16))
    difference = np.asarray(Image.open("grid.png")).astype(int) - np.asarray(picture)
    assert abs(difference).max() <= 1  # float32 sums in another order move a pixel by a level


@pytest.mark.parametrize(
    ("text", "code", "finding"),
    [
        ("0.5,1", 2, "0.5,1;"),
        ("", 2, "is none of"),
        (".", 2, "is none of"),
        ("-1", 2, "is none of"),
        ("2-0", 2, "holds no class"),
        ("2", 2, "class 2, the model takes classes 0 to 1"),
        (";", 2, "no vector of numbers"),
        ("1,2;;3,4", 2, "no vector of numbers"),
        ("1,2;3", 2, "no common form"),
        ("1,2,3;", 2, "vectors of length 3, the model takes vectors of length 2"),
        ("nan,1;", 2, "not finite"),
        ("1e39,1;", 2, "not finite"),
        ("missing.json", 3, "missing.json does not exist"),
        ("long.json", 3, "long.json: vectors of length 3"),
        ("five.json", 3, "five.json: class 5, the model takes classes 0 to 1"),
        ("empty.json", 3, "empty.json: holds no labels"),
        ("model.safetensors", 3, "model.safetensors: neither numbers nor JSON"),
    ],
)
def test_mistakes(ganc: Ganc, conditional: Path, text: str, code: int, finding: str) -> None:
    outcome = ganc("sample", conditional, "-o", "grid.png", f"--labels={text}")
    assert (outcome.code, outcome.out) == (code, "")
    assert finding in outcome.err
    assert len(outcome.err.splitlines()) <= 2
    assert not Path("grid.png").exists()


def test_python_takes_tensors_and_files(conditional: Path) -> None:
    model = make_model(c_dim=2)
    forms: list[Any] = [
        [[0.5, 1], [-2, 0]], torch.tensor([[0.5, 1], [-2, 0]]), "vectors.json", Path("dataset.json")
    ]  # fmt: skip
    images = [sample(model, 4, labels=labels) for labels in forms]
    assert all(torch.equal(images[0], other) for other in images[1:])
    assert torch.equal(sample(model, 2, labels=[1, 0]), sample(model, 2, labels=[[0, 1], [1, 0]]))


@pytest.mark.parametrize("labels", ["0-99999999999", "0-9999999", "1" * 30])
def test_ranges_that_no_grid_shows(
    ganc: Callable[..., Outcome], checkpoint: Path, tmp_path: Path, labels: str
) -> None:
    done = ganc("sample", checkpoint, "-o", tmp_path / "x.png", "--labels", labels)
    assert done.code == 2
    assert "holds more than 1000000 classes" in done.err
