"""``ganc eval`` as its users and their pipelines see it."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ganc.checkpoints.store import save
from ganc.report.entry import short_names
from tests.conftest import Outcome, make_model
from tests.families import make_sngan
from tests.test_cli import assert_one_line

Ganc = Callable[..., Outcome]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    save(make_model(seed=5), path)
    return path


def test_json_result(ganc: Ganc, checkpoint: Path, teacher: Path) -> None:
    arguments = ("--teacher", teacher, "--metrics", "macs, l1", "--samples", 4, "--seed", 2)
    outcome = ganc("eval", checkpoint, *arguments, "--device", "cpu", "--json")
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert result["checkpoint"] == str(checkpoint)
    assert set(result["metrics"]) == {"macs", "l1"}
    assert result["metrics"]["l1"] > 0
    assert (result["settings"]["samples"], result["settings"]["seed"]) == (4, 2)
    assert result["requirements"] == []


@pytest.mark.parametrize(("bound", "code"), [("1G", 0), ("1K", 1)])
def test_require_decides_the_exit_code(ganc: Ganc, checkpoint: Path, bound: str, code: int) -> None:
    outcome = ganc("eval", checkpoint, "--require", f"macs<={bound}", "--json")
    assert outcome.code == code
    rows = json.loads(outcome.out)["requirements"]
    assert [(row["expr"], row["met"]) for row in rows] == [(f"macs<={bound}", code == 0)]


def test_table_for_a_person(ganc: Ganc, checkpoint: Path) -> None:
    outcome = ganc("eval", checkpoint, "--metrics", "params", "--require", "params<10")
    assert outcome.code == 1
    for text in ("params<10", "requirements", "settings", "seed", "no"):
        assert text in outcome.out


def test_warnings_go_to_stderr(ganc: Ganc, checkpoint: Path, teacher: Path) -> None:
    arguments = ("eval", checkpoint, "--teacher", teacher, "--metrics", "fd", "--samples", 4)
    outcome = ganc(*arguments, "--json")
    assert outcome.code == 0
    assert "warning: fd of 4 samples" in outcome.err
    assert json.loads(outcome.out)["metrics"]["fd"] > 0
    assert ganc(*arguments, "--json", "--quiet").err == ""


def test_dry_run_loads_nothing(ganc: Ganc) -> None:
    outcome = ganc("eval", "no such file", "--require", "macs<=1G", "--dry-run", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["settings"]["metrics"] == ["macs"]
    assert ganc("eval", "no such file", "--metrics", "fdi", "--dry-run").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "findings"),
    [
        (["--metrics", "fdi"], 2, ["unknown metric `fdi`", "did you mean"]),
        (["--metrics", "l1"], 2, ["--teacher CKPT"]),
        (["--metrics", "fd"], 2, ["pass --data with real images"]),
        (["--require", "fd=8"], 2, ["--require `fd=8`", "'fd<=80'"]),
        (["--samples", 1], 2, ["--samples 1"]),
        (
            ["--metrics", "lpips-diversity", "--perceptual", "lpips-vgg"],
            3,
            ["weights `vgg16`", "needs no download: --metrics perceptual-diversity (effnet-lite0)"],
        ),
        (
            ["--metrics", "lpips-diversity"],
            3,
            ["needs images of 31 px or more, it would see 16", "perceptual-diversity takes any"],
        ),
        (["--metrics", "fd", "--data", "nowhere"], 3, ["nowhere does not exist"]),
    ],
)
def test_mistakes(
    ganc: Ganc, checkpoint: Path, arguments: list[object], code: int, findings: list[str]
) -> None:
    outcome = ganc("eval", checkpoint, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) <= 2
    for finding in findings:
        assert finding in outcome.err


# --- several checkpoints, repeats, an earlier result ----------------------------------------------


@pytest.fixture
def second(tmp_path: Path) -> Path:
    path = tmp_path / "second.safetensors"
    save(make_model(seed=7), path)
    return path


def test_several_checkpoints_and_their_teacher(
    ganc: Ganc, checkpoint: Path, second: Path, teacher: Path
) -> None:
    models = (checkpoint, second, "--teacher", teacher, "--samples", 4)
    arguments = ("--metrics", "params,l1,perceptual-diversity", "--require", "params<=2*teacher")
    outcome = ganc("eval", *models, *arguments, "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert [row["checkpoint"] for row in document["results"]] == [str(checkpoint), str(second)]
    assert set(document["teacher"]["metrics"]) >= {"params", "perceptual-diversity"}
    assert "l1" not in document["teacher"]["metrics"]  # it has none to itself
    alone = json.loads(ganc("eval", second, *models[2:], *arguments, "--json").out)
    assert document["results"][1]["metrics"] == alone["metrics"]
    assert document["results"][1]["requirements"] == alone["requirements"]
    shown = ganc("eval", *models, *arguments).out
    assert all(name in shown for name in ("model", "second", "teacher", "requirements of second"))


def test_one_failed_requirement_of_several_checkpoints_decides(
    ganc: Ganc, checkpoint: Path, second: Path
) -> None:
    assert ganc("eval", checkpoint, second, "--require", "params>10").code == 0
    assert ganc("eval", checkpoint, second, "--require", "params<10").code == 1


def test_repeats_give_mean_and_deviation(ganc: Ganc, checkpoint: Path, teacher: Path) -> None:
    arguments = ("--teacher", teacher, "--metrics", "l1,macs", "--samples", 4)
    runs = [
        json.loads(ganc("eval", checkpoint, *arguments, "--seed", seed, "--json").out)["metrics"]
        for seed in (5, 6, 7)
    ]
    repeated = (*arguments, "--seed", 5, "--repeats", 3)
    result = json.loads(ganc("eval", checkpoint, *repeated, "--json").out)
    values = [run["l1"] for run in runs]
    assert result["repeats"] == runs
    assert result["metrics"]["l1"] == pytest.approx(statistics.mean(values), rel=1e-12)
    assert result["std"]["l1"] == pytest.approx(statistics.stdev(values), rel=1e-9)
    assert result["std"]["macs"] == 0
    assert isinstance(result["metrics"]["macs"], int)
    assert " ± " in ganc("eval", checkpoint, *repeated).out


def test_against_an_earlier_result(
    ganc: Ganc, tmp_path: Path, checkpoint: Path, second: Path, teacher: Path
) -> None:
    arguments = ("--teacher", teacher, "--metrics", "l1,macs,fd", "--samples", 4)
    before = tmp_path / "before.json"
    before.write_text(ganc("eval", checkpoint, *arguments, "--json").out)
    after = json.loads(ganc("eval", second, *arguments, "--against", before, "--json").out)
    rows = {row["name"]: row for row in after["against"]["values"]}
    earlier = json.loads(before.read_text())["metrics"]
    assert list(rows) == ["l1", "macs", "fd"]
    for name, row in rows.items():
        assert row["value"] == after["metrics"][name]
        assert row["before"] == earlier[name]
        assert row["difference"] == row["value"] - row["before"]
    assert "against" in ganc("eval", second, *arguments, "--against", before).out
    # What does not depend on samples compares whatever their number; the rest does not.
    alike = ("eval", second, "--metrics", "macs", "--against", before)
    assert ganc(*alike).code == 0


def test_other_files_beside_the_same_images_compare(
    ganc: Ganc, tmp_path: Path, checkpoint: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 80, 200)).save(data / f"{i}.png")
    arguments = ("eval", checkpoint, "--metrics", "fd", "--samples", 4, "--data", data)
    before = tmp_path / "before.json"
    before.write_text(ganc(*arguments, "--json").out)
    (data / "readme.txt").write_text("x")
    outcome = ganc(*arguments, "--against", before)
    assert outcome.code == 0
    assert f"warning: {data}: 1 file left out, no images: 1 .txt\n" in outcome.err


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        (["--samples", 8], "pairs is 8 here, 4 there"),
        (["--seed", 1], "seed is 1 here, 0 there"),
        (["--truncation", 0.5], "truncation_psi is 0.5 here, 1.0 there"),
        (["--noise-mode", "const"], "noise_mode is const here, random there"),
    ],
)
def test_unlike_protocols_are_refused(
    ganc: Ganc, tmp_path: Path, checkpoint: Path, teacher: Path, changed: list[object], finding: str
) -> None:
    arguments = ["--teacher", teacher, "--metrics", "l1"]
    before = tmp_path / "before.json"
    before.write_text(ganc("eval", checkpoint, *arguments, "--samples", 4, "--json").out)
    arguments += ["--against", before, *(changed if "--samples" in changed else
                                         ["--samples", 4, *changed])]  # fmt: skip
    outcome = ganc("eval", checkpoint, *arguments, "--quiet")
    assert_one_line(outcome, 3, "l1 of", "before.json", finding)


def test_what_is_no_earlier_result(ganc: Ganc, tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "before.json"
    arguments = ("eval", checkpoint, "--metrics", "macs", "--against", path)
    assert_one_line(ganc(*arguments), 3, "before.json does not exist")
    for content, finding in (
        ("{", "is not JSON"),
        ("[1]", "is not a result of ganc eval"),
        ('{"metrics": {}}', "is not a result of ganc eval"),
        ('{"results": [1, 2]}', "holds 2 results, expected one"),
        ('{"metrics": {"fd": 1}, "settings": {"protocols": {}}}', "has none of the values macs"),
    ):
        path.write_text(content)
        assert_one_line(ganc(*arguments), 3, finding, "hint: ")


def test_only_one_model_can_be_stdin(ganc: Ganc, checkpoint: Path) -> None:
    assert_one_line(ganc("eval", checkpoint, "-", "--teacher", "-"), 2, "only one of")


@pytest.mark.parametrize(
    ("give", "finding"),
    [
        (["model", "teacher", "--teacher", "teacher"], "is the --teacher"),
        (["teacher", "--teacher", "teacher", "--report", "r.html"], "is the --teacher"),
        (["model", "second", "model"], "is given 2 times"),
    ],
)
def test_a_model_has_one_column(
    ganc: Ganc, checkpoint: Path, second: Path, teacher: Path, give: list[str], finding: str
) -> None:
    files = {"model": checkpoint, "second": second, "teacher": teacher}
    arguments = [files.get(word, word) for word in give]
    assert_one_line(ganc("eval", *arguments, "--metrics", "params"), 2, finding, "hint: ")
    assert ganc("eval", teacher, "--teacher", teacher, "--metrics", "l1", "--samples", 2).code == 0


def test_a_report_that_cannot_be_is_refused_before_measuring(
    ganc: Ganc, tmp_path: Path, checkpoint: Path
) -> None:
    other, page = tmp_path / "other.safetensors", tmp_path / "page.html"
    save(make_sngan(), other)
    outcome = ganc("eval", checkpoint, other, "--metrics", "params", "--report", page)
    assert_one_line(outcome, 3, "write a report for each kind of model")
    assert not page.exists()


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names(["a/x.pt", "b/y.pt", "-"]) == {"a/x.pt": "x", "b/y.pt": "y", "-": "stdin"}
    assert [*short_names(["a/x.pt", "a/x.pkl"]).values()] == ["x.pt", "x.pkl"]
    assert [*short_names(["a/x.pt", "b/x.pt"]).values()] == ["a/x.pt", "b/x.pt"]
    assert [*short_names(["1/2/3/4/x", "0/2/3/4/x"]).values()] == ["1/2/3/4/x", "0/2/3/4/x"]
