"""What a report says, from its text; how it looks is the browser's to tell."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganc.data.inputs import open_inputs
from ganc.errors import InputError, MissingDependencyError, OutputError, UsageError
from ganc.evaluation.metrics import METRICS
from ganc.models.model import Model
from ganc.models.unet_translator import Generator as UNet
from ganc.report.entry import Entry, in_order
from ganc.report.page import check_page, write_page
from ganc.report.summary import front, summarise
from ganc.report.tables import agreements, metric_columns, times, width_bars
from ganc.report.values import plain, short
from ganc.values import VALUES
from tests.conftest import make_model
from tests.report.conftest import NASTY, document

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Elements as they open and close; attributes as they are read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def test_page_is_whole_and_refers_to_nothing_outside(page: Path) -> None:
    text = page.read_text()
    outline = Outline(text)
    assert outline.open == []
    ids = Counter(value for name, value in outline.attributes if name == "id")
    assert max(ids.values()) == 1
    for name, value in outline.attributes:
        if name in ("aria-labelledby", "for"):
            assert value in ids
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), value
            assert not value.startswith("#") or value[1:] in ids
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.removeprefix("#") in ids
    contents = [value for name, value in outline.attributes if name == "content"]
    assert any(content.startswith("default-src 'none';") for content in contents)


def test_strings_of_users_are_escaped(page: Path) -> None:
    text = page.read_text()
    assert Outline(text).tags["script"] == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "{{ y }}" in text, "a name is no template"


def test_same_arguments_give_the_same_bytes(
    page: Path, entries: list[Entry], write: Callable[..., Path]
) -> None:
    assert write(entries).read_bytes() == page.read_bytes()


def test_models_stay_as_they_are(entries: list[Entry], write: Callable[..., Path]) -> None:
    before = [entry.model.content_hash() for entry in entries]
    write(entries[1:])
    assert [entry.model.content_hash() for entry in entries] == before


def test_teacher_comes_first(entries: list[Entry]) -> None:
    assert [entry.name for entry in in_order(entries)] == ["big", NASTY, "half"]


def test_numbers_mark_the_best_student(entries: list[Entry]) -> None:
    columns = {column.name: column for column in metric_columns(in_order(entries))}
    teacher, tenth, half = columns["fd"].cells
    assert (teacher.text, tenth.text, half.text) == ("8", "20", "12.5")
    assert (teacher.is_best, tenth.is_best, half.is_best) == (False, False, True)
    assert (tenth.spread, half.spread) == ("± 0.5", "± 0.75")
    assert [cell.text for cell in columns["l1"].cells] == ["–", "0.3", "0.2"]
    assert [cell.is_best for cell in columns["recall"].cells] == [False] * 3, "all are equal"
    assert list(columns)[-1] == "made-up"
    assert columns["made-up"].better == ""
    macs = columns["macs"].cells
    assert macs[0].beside == ""
    assert macs[1].beside.endswith("× less")


@pytest.mark.parametrize(
    ("ratio", "said"), [(10.24, "10.2× less"), (0.5, "2× more"), (1.001, "the same")]
)
def test_costs_are_compared_in_words(ratio: float, said: str) -> None:
    assert times(ratio) == said


def test_summary_names_the_best_and_what_is_not_met(entries: list[Entry]) -> None:
    text = " ".join(summarise(in_order(entries)))
    assert "2 students beside their teacher: stylegan2 at 16 px." in text
    assert "half has the lowest fd of the students, 12.5 (teacher 8), for " in text
    assert "Every one is a different trade-off between fd and arithmetic." in text
    assert "0 of 1 requirements are met." in text


def test_kept_diversity_is_said_and_its_interval_joins_the_value(entries: list[Entry]) -> None:
    tenth, half, teacher = entries
    kept = {"irs-kept": 0.9, "irs-kept-low": 0.85, "irs-kept-high": 0.953}
    told = [tenth, replace(half, result=document(half.model, {"fd": 13.0, **kept})), teacher]
    text = " ".join(summarise(in_order(told)))
    assert "half keeps 90 % of the teacher's diversity (irs-inf, 95 % interval 85 to 95 %)." in text
    assert text.count("diversity") == 1
    columns = {column.name: column for column in metric_columns(in_order(told))}
    assert not columns.keys() & {"irs-kept-low", "irs-kept-high"}
    assert [cell.spread for cell in columns["irs-kept"].cells] == ["", "", "0.85 to 0.953"]


def test_front_leaves_out_what_is_beaten(entries: list[Entry]) -> None:
    tenth, half, teacher = entries
    worse = replace(half, name="worse", result=document(half.model, {"fd": 13.0}))
    assert [entry.name for entry in front([worse, half, tenth, teacher], "fd")] == [
        "half", NASTY, "big",
    ]  # fmt: skip
    same = replace(half, name="same")
    assert len(front([half, same], "fd")) == 2, "equals do not beat each other"


def test_widths_have_the_teacher_s_outline(entries: list[Entry]) -> None:
    rows = dict(width_bars(in_order(entries)))
    teacher, tenth, half = rows["b8.conv0"]
    assert (teacher.width, tenth.width, half.width) == (6, 1, 3)
    assert teacher.share == teacher.outline == tenth.outline == 6 / 8, "the widest group has 8"
    assert half.share == 3 / 8


def test_what_all_agree_on_is_said_once() -> None:
    rows = agreements({"a": {"n": 5, "k": 1}, "b": {"n": 5, "k": 2}, "c": {"n": 5}})
    assert [(row.name, row.values) for row in rows] == [
        ("n", [("", "5")]),
        ("k", [("a", "1"), ("b", "2")]),
    ]


HIGHER_IS_BETTER = {
    "coverage", "density", "irs", "irs-kept", "lpips-diversity", "miou", "perceptual-diversity",
    "precision", "psnr", "psnr-target", "recall", "speedup", "vendi",
}  # fmt: skip


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_has_its_direction(name: str) -> None:
    assert name in VALUES, "give the new metric a row in ganc/values.py"
    assert VALUES[name].better == ("higher" if name in HIGHER_IS_BETTER else "lower")
    assert VALUES[name].is_higher_better == (name in HIGHER_IS_BETTER)


@pytest.mark.parametrize(
    ("value", "text"),
    [(45_124_673_536, "45.12 G"), (999.0, "999"), (0.012345, "0.01235"), (0.0, "0")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_plain_values() -> None:
    assert plain({"a": [1, 2.5], "b": None, "c": True}) == "a 1, 2.5, b –, c yes"


def test_a_translator_is_shown_on_its_inputs(write: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = UNet(1, 3, num_downs=3, img_resolution=16, base_width=2)
    folder = tmp_path / "inputs"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (16, 16), 80 * i).save(folder / f"edge{i}.png")
    model = Model(generator=generator.eval())
    entry = Entry("one", model, document(model, {}))
    text = write([entry], inputs=open_inputs(folder, generator)).read_text()
    assert text.count('alt="input: edge') == text.count('alt="one: edge') == 3
    assert str(tmp_path) not in text, "names of files, not the folders they lie in"
    assert 'id="interpolation"' not in text
    assert 'id="samples"' not in write([entry]).read_text(), "without inputs there is no image"


def test_what_cannot_stand_on_one_page_is_refused(entries: list[Entry]) -> None:
    tenth, half, teacher = entries
    other = make_model(c_dim=3)
    with pytest.raises(UsageError, match="at least one model, got none"):
        in_order([])
    with pytest.raises(UsageError, match="2 models of the report are called `half`"):
        in_order([half, replace(tenth, name="half")])
    with pytest.raises(UsageError, match="at most one teacher, got half, big"):
        in_order([replace(half, is_teacher=True), teacher])
    with pytest.raises(InputError, match=r"other has .*'c_dim': 3.*, half \{"):
        in_order([half, Entry("other", other, document(other, {}))])


def test_an_existing_file_stays(entries: list[Entry], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_page(path, entries, title="t", device="cpu")
    assert path.read_text() == "mine"
    write_page(path, entries[1:2], title="t", device="cpu", force=True)
    assert path.read_text().startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_nothing_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="matplotlib is needed") as caught:
        check_page(tmp_path / "report.html")
    assert caught.value.hint == "pip install 'ganc[plot]'"
