"""Several models, a report and an earlier result in Python: what ``ganc eval`` has, and no less."""

import inspect
import json
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ganc as library
from ganc.checkpoints.store import save
from ganc.errors import DataError, InputError, UsageError
from ganc.evaluation.evaluate import EvalArguments, evaluate
from ganc.evaluation.metrics import METRICS
from ganc.evaluation.options import EvalSettings
from ganc.evaluation.task import Measurement, Task
from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.report.report import check_report
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.families import make_resnet, make_sngan
from tests.labelled import write_labelled

from .witnesses import colours

Ganc = Callable[..., Outcome]
Started = list[tuple[str, Model]]


@pytest.fixture
def models() -> dict[str, Model]:
    """A conditional teacher and two students of its."""
    teacher = make_model(c_dim=3)
    scores = score(teacher, "l1-out")
    ratios = {"half": 0.5, "tenth": 0.9}
    students = {name: prune(teacher, scores, prune_ratio=ratio) for name, ratio in ratios.items()}
    return {"faces": teacher, **students}


@pytest.fixture
def files(models: dict[str, Model], tmp_path: Path) -> dict[str, str]:
    """The same models on disk."""
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in models}
    for name, model in models.items():
        save(model, paths[name])
    return paths


def test_results_and_page_are_the_command_s(
    ganc: Ganc, models: dict[str, Model], files: dict[str, str], tmp_path: Path
) -> None:
    data = write_labelled(tmp_path / "real.zip", [0, 0, 0, 1, 2, 2, 2, 2])
    teacher, *students = files.values()
    by_command, by_library = tmp_path / "command.html", tmp_path / "library.html"
    options = ["--samples", 6, "--seed", 3, "--truncation", 0.7, "--repeats", 2, "--device", "cpu"]
    given = ["--metrics", "macs,l1,perceptual-diversity", "--require", "macs<=0.6*teacher"]
    printed = ganc("eval", *students, "--teacher", teacher, "--data", data, *given, *options,
                   "--report", by_command, "--json")  # fmt: skip
    assert printed.code == 0, printed.err
    results = library.evaluate(
        {files[name]: model for name, model in models.items()},
        ["macs", "l1", "perceptual-diversity"], teacher=models["faces"],
        require=["macs<=0.6*teacher"], data=data, samples=6, seed=3, truncation_psi=0.7, repeats=2,
        device="cpu",
    )  # fmt: skip
    document = json.loads(printed.out)
    again = json.loads(json.dumps(results))
    assert again == [document["teacher"], *document["results"]]
    assert "l1" not in again[0]["metrics"]
    library.write_report(results, by_library, models, device="cpu")
    assert by_library.read_bytes() == by_command.read_bytes()
    library.write_report(again, by_library, models, device="cpu", force=True)
    assert by_library.read_bytes() == by_command.read_bytes(), "of JSON"


def test_a_translator_s_page_shows_the_inputs_of_its_result(ganc: Ganc, tmp_path: Path) -> None:
    model, photos = make_resnet(), tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (60 * i, 80, 200)).save(photos / f"photo{i}.png")
    save(model, tmp_path / "model.safetensors")
    page = tmp_path / "page.html"
    given = (
        "--metrics",
        "params",
        "--samples",
        3,
        "--input",
        photos,
        "--resize",
        "--device",
        "cpu",
    )
    outcome = ganc("eval", tmp_path / "model.safetensors", *given, "--report", page, "--json")
    assert outcome.code == 0, outcome.err
    assert page.read_text().count('alt="input: photo') == 3
    result = json.loads(outcome.out)
    library.write_report(result, tmp_path / "again.html", {"model": model}, device="cpu")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    (photos / "photo0.png").rename(tmp_path / "photo0.png")
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="photos does not exist"):
        library.write_report(result, tmp_path / "third.html", {"model": model})


def test_a_comparison_is_the_command_s(
    ganc: Ganc, models: dict[str, Model], files: dict[str, str], tmp_path: Path
) -> None:
    before = tmp_path / "before.json"
    given = ("--metrics", "macs,l1", "--teacher", files["faces"], "--samples", 4, "--device", "cpu")
    before.write_text(ganc("eval", files["half"], *given, "--json").out)
    printed = ganc("eval", files["tenth"], *given, "--against", before, "--json").out
    common: dict[str, Any] = {"teacher": models["faces"], "samples": 4, "device": "cpu"}
    result = evaluate(models["tenth"], ["macs", "l1"], **common)
    rows = library.compare_results(result, before)
    assert rows == json.loads(printed)["against"]["values"]
    assert rows == library.compare_results(result, str(before))
    earlier = evaluate(models["half"], ["macs", "l1"], **common)
    assert rows == library.compare_results(result, earlier)


# --- several models -------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Metrics as they are begun, each with the model it measures."""
    seen: Started = []

    def watch(name: str) -> None:
        start = METRICS[name].start

        def begin(task: Task) -> Measurement:
            seen.append((name, task.model))
            return start(task)

        monkeypatch.setitem(METRICS, name, METRICS[name]._replace(start=begin))

    for name in ("params", "l1"):
        watch(name)
    return seen


def measured(seen: Started, models: dict[str, Model]) -> list[tuple[str, str]]:
    """Say which model each metric measured."""
    names = {model.content_hash(): name for name, model in models.items()}
    return [(metric, names[model.content_hash()]) for metric, model in seen]


def test_models_are_measured_as_each_by_itself(models: dict[str, Model]) -> None:
    common: dict[str, Any] = {"require": ["params<=2*teacher"], "samples": 4, "device": "cpu"}
    teacher = models["faces"]
    mixed = {name: models[name] for name in ("half", "faces", "tenth")}
    results = evaluate(mixed, ["params", "l1"], teacher=teacher, **common)
    assert [result["checkpoint"] for result in results] == ["half", "faces", "tenth"]
    for name, result in zip(mixed, results, strict=True):
        alone = evaluate(mixed[name], ["params", "l1"], teacher=teacher, **common)
        if name != "faces":
            assert result == {"checkpoint": name, **alone}
    own = evaluate(teacher, ["params"], samples=4, device="cpu")
    assert results[1] == {"checkpoint": "faces", **own}


def test_the_teacher_is_measured_once(models: dict[str, Model], started: Started) -> None:
    common: dict[str, Any] = {"require": ["params<=2*teacher"], "samples": 2, "device": "cpu"}
    evaluate(models, ["params", "l1"], teacher=models["faces"], **common)
    among = [("params", "faces"), ("params", "half"), ("l1", "half"),
             ("params", "tenth"), ("l1", "tenth")]  # fmt: skip
    assert measured(started, models) == among
    started.clear()
    students = {name: models[name] for name in ("half", "tenth")}
    results = evaluate(students, teacher=models["faces"], **common)
    assert measured(started, models) == [
        ("params", "half"), ("params", "faces"), ("params", "tenth"),
    ]  # fmt: skip
    assert [result["teacher_metrics"]["params"] for result in results] == 2 * [
        models["faces"].params()
    ]


def test_one_model_by_name_is_a_list_of_one(models: dict[str, Model]) -> None:
    result = evaluate(models["half"], ["macs"], device="cpu")
    assert "checkpoint" not in result
    named = evaluate({"half": models["half"]}, ["macs"], device="cpu")
    assert named == [{"checkpoint": "half", **result}]


def test_what_are_no_models_is_refused(models: dict[str, Model]) -> None:
    teacher = models["faces"]
    with pytest.raises(UsageError, match="a dict of models by name, got a list"):
        evaluate(list(models.values()), ["macs"])  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="a dict of models by name, got a str"):
        evaluate("half.safetensors", ["macs"])  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="needs at least one model, got none"):
        evaluate({}, ["macs"])
    with pytest.raises(UsageError, match="at least one model beside the teacher, got none"):
        evaluate({"faces": teacher}, ["macs"], teacher=teacher)
    with pytest.raises(TypeError, match="'sample'; did you mean 'samples'"):
        evaluate(models, ["macs"], sample=4)  # type: ignore[call-overload]


def test_keywords_for_type_checkers_are_the_function_s() -> None:
    parameters = inspect.signature(evaluate).parameters.values()
    own = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    said = {name: kind for name, kind in typing.get_type_hints(EvalArguments).items()
            if name not in typing.get_type_hints(EvalSettings)}  # fmt: skip
    assert said == {name: typing.get_type_hints(evaluate)[name] for name in own}


# --- wrong use of results -------------------------------------------------------------------------


def test_results_and_models_that_do_not_belong_together(
    models: dict[str, Model], tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    results = evaluate(models, ["macs"], device="cpu")
    with pytest.raises(UsageError, match="got 3 results and 2 models"):
        library.write_report(results, path, {name: models[name] for name in ("faces", "half")})
    turned = dict(reversed(models.items()))
    with pytest.raises(UsageError, match="in the place of `tenth` is another model's"):
        library.write_report(results, path, turned)
    with pytest.raises(UsageError, match="at least one model, got none"):
        library.write_report([], path, {})
    assert not path.exists()


def test_what_others_were_measured_against_is_the_teacher(
    models: dict[str, Model], tmp_path: Path
) -> None:
    teacher, half = models["faces"], models["half"]
    own = evaluate(teacher, ["macs"], device="cpu")
    beside = evaluate(half, ["macs"], teacher=teacher, device="cpu")
    alone = evaluate(half, ["macs"], device="cpu")
    pages = []
    for result in (beside, alone):
        pages.append(tmp_path / f"{len(pages)}.html")
        given = {"half": half, "faces": teacher}
        library.write_report([result, own], pages[-1], given, device="cpu")
    assert "One student beside its teacher" in pages[0].read_text()
    assert "2 models" in pages[1].read_text()


def test_a_report_that_cannot_be_is_known_before_anything_is_measured(
    models: dict[str, Model], tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    check_report(path, models)
    with pytest.raises(InputError, match=r"sngan has .*'c_dim': 0.*, faces .*'c_dim': 3"):
        check_report(path, {**models, "sngan": make_sngan()})
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        check_report(path, models)
    check_report(path, models, force=True)


def test_what_does_not_compare(tmp_path: Path) -> None:
    model, path = colours(0.5), tmp_path / "before.json"
    macs, params = ({"now": model, "then": model}, ["macs"]), (model, ["params"])
    several, one = evaluate(*macs, device="cpu"), evaluate(*params, device="cpu")
    with pytest.raises(
        InputError, match=r"^the earlier result has none of the values macs; it has"
    ):
        library.compare_results(several[0], one)
    with pytest.raises(InputError, match=r"^yesterday has none of the values macs; it has"):
        library.compare_results(several[0], one, "yesterday")
    path.write_text(json.dumps(one))
    with pytest.raises(InputError, match=r"before\.json has none of the values macs; it has"):
        library.compare_results(several[0], path)
    with pytest.raises(InputError, match=r"^the result is not a result of ganc eval"):
        library.compare_results(several, one)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^the earlier result holds 2 results, expected one"):
        library.compare_results(one, {"results": several})
    with pytest.raises(InputError, match=r"gone\.json does not exist"):
        library.compare_results(one, tmp_path / "gone.json")


# --- the page -------------------------------------------------------------------------------------


def test_the_example_of_the_page_runs(
    ganc: Ganc, files: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = (Path(library.__file__).parents[1] / "docs" / "evaluation.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    folder = Path(files["half"]).parent
    monkeypatch.chdir(folder)
    given = ("--metrics", "macs,l1", "--teacher", "faces.safetensors", "--samples", 100)
    Path("before.json").write_text(ganc("eval", "half.safetensors", *given, "--json").out)
    exec(example, {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], float(line[3])) for line in lines] == [("macs", 0.0), ("l1", 0.0)]
    assert "2 students beside their teacher" in Path("report.html").read_text()
