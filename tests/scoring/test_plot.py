"""Pictures of scores: what the panels show, how they are written, and by which commands."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image

from ganc.errors import MissingDependencyError, OutputError, UsageError
from ganc.scores import Scores
from ganc.scoring.plot import check_plot, plot_scores, save_plot
from tests.conftest import Outcome
from tests.test_cli import assert_one_line, scores_of

Ganc = Callable[..., Outcome]
KEPT = {"a": 2, "b": 1}
SCORES = Scores({"a": torch.tensor([1.0, 5, 3, 2]), "b": torch.tensor([0.5, 1.0, 0.0])}, "made")


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


def bars(axes: Axes) -> list[list[float]]:
    """Return the heights of each coloured part of a panel."""
    parts = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [part.get_data().values.tolist() for part in parts]


def test_panels_show_sorted_scores_and_the_cut() -> None:
    a, b = panels(plot_scores(SCORES, KEPT, "a title"))
    assert bars(a) == [[5, 3], [2, 1]]
    assert bars(b) == [[1], [0.5, 0]]
    assert [line.get_xdata()[0] for line in (*a.lines, *b.lines)] == [2, 1]
    assert a.get_title() == "a\n2 of 4 (50 %)"
    assert b.get_title() == "b\n1 of 3 (33 %)"
    assert {a.get_yscale(), b.get_yscale()} == {"linear"}
    assert a.get_ylim()[0] == 0


def test_title_says_what_it_was_told_and_counts() -> None:
    figure = plot_scores(SCORES, {"a": 2}, "me.safetensors · made")
    # A group that the widths do not name stays whole.
    assert figure.get_suptitle() == "me.safetensors · made\n5 of 7 channels stay (blue)"
    assert bars(panels(figure)[1]) == [[1, 0.5, 0]]


def test_decades_get_a_logarithmic_axis_and_zeros_no_bar() -> None:
    # A logarithmic axis, since the middle of the positive scores is 1, which 1e4 would dwarf.
    wide = Scores({"a": torch.tensor([1e-3, 1.0, 0.0, 1e4], dtype=torch.float64)}, "made")
    (axes,) = panels(plot_scores(wide, {"a": 2}, "t"))
    bottom = axes.get_ylim()[0]
    assert axes.get_yscale() == "log"
    assert 0 < bottom < 1e-3
    assert bars(axes) == [[1e4, 1.0], [1e-3, bottom]]


def test_one_channel_that_is_worth_next_to_nothing_is_no_decade() -> None:
    uniform = Scores({"a": torch.tensor([1e-5, 0.25, 0.5, 0.75, 1.0])}, "made")
    (axes,) = panels(plot_scores(uniform, {"a": 2}, "t"))
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize("is_log", [False, True])
def test_a_group_without_any_score_says_so(is_log: bool) -> None:
    steep = [1e-3, 1e-3, 1.0] if is_log else [1.0, 2.0, 3.0]
    scores = {"steep": torch.tensor(steep), "flat": torch.zeros(3), "more": torch.tensor(steep)}
    steep_axes, flat, _ = panels(plot_scores(Scores(scores, "made"), {"flat": 1}, "t"))
    assert flat.get_yscale() == ("log" if is_log else "linear")
    assert [text.get_text() for text in flat.texts] == ["every score is 0"]
    assert len(flat.get_yticks()) == len(steep_axes.texts) == 0


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0], [1e-90, 1e38]])
def test_odd_scores_are_drawn(values: list[float], tmp_path: Path) -> None:
    figure = plot_scores(
        Scores({"a": torch.tensor(values, dtype=torch.float64)}, "made"), {"a": 1}, "t"
    )
    save_plot(figure, tmp_path / "odd.png")
    with Image.open(tmp_path / "odd.png") as image:
        assert image.size == (600, 240)


@pytest.mark.parametrize("count", [1, 8, 18, 31])
def test_every_group_has_a_panel(count: int) -> None:
    many = Scores({f"b{i}.conv0": torch.rand(4) for i in range(count)}, "made")
    figure = plot_scores(many, {}, "t")
    assert len(panels(figure)) == count
    width, height = figure.get_size_inches()
    assert 0.3 < height / width < 1.2


def test_files_are_png_and_the_same_every_time(tmp_path: Path) -> None:
    one, other = tmp_path / "1.png", tmp_path / "2.PNG"
    for path in (one, other):
        # Dollar signs are no formula; a script that the font lacks is no warning.
        save_plot(plot_scores(SCORES, KEPT, "顔 $x_1$ {a}"), path)
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as image:
        assert image.format == "PNG"
    with pytest.raises(OutputError, match="exists already"):
        save_plot(plot_scores(SCORES, KEPT, "t"), one)
    save_plot(plot_scores(SCORES, KEPT, "t"), one, force=True)
    assert one.read_bytes() != other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "2.PNG"]


def test_no_state_of_pyplot_is_touched() -> None:
    assert "matplotlib.pyplot" not in sys.modules


def test_what_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must name a \.png file"):
        check_plot(tmp_path / "scores.svg", force=False)
    with pytest.raises(OutputError, match="does not exist"):
        check_plot(tmp_path / "no" / "scores.png", force=False)


def test_missing_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="matplotlib is needed") as caught:
        check_plot(tmp_path / "scores.png", force=False)
    assert caught.value.hint == "pip install 'ganc[plot]'"


def test_commands_plot(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    scores, small = tmp_path / "s.safetensors", tmp_path / "small.safetensors"
    plots = [tmp_path / "score.png", tmp_path / "prune.png"]
    score = ("score", checkpoint, "--method", "random", "-o", scores, "--plot", plots[0])
    prune = ("prune", checkpoint, "--scores", scores, "-o", small, "--plot", plots[1])
    prune += ("--allocation", "global", "--speedup", 2)
    for command, plot in zip((score, prune), plots, strict=True):
        outcome = ganc(*command, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["plot"] == str(plot)
        content = plot.read_bytes()
        assert content.startswith(b"\x89PNG")
        command[command.index("-o") + 1].unlink()
        assert_one_line(ganc(*command), 3, str(plot), "exists already", "--force")
        assert plot.read_bytes() == content
        assert ganc(*command, "--force").code == 0


def test_prune_draws_the_plan_s_own_widths(
    ganc: Ganc, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def spy(scores: Scores, widths: dict[str, int], title: str) -> Figure:
        drawn.update(widths=widths, title=title)
        return plot_scores(scores, widths, title)

    monkeypatch.setattr("ganc.scoring.plot.plot_scores", spy)
    scores = scores_of(ganc, checkpoint)
    arguments = ("--speedup", 2, "--allocation", "global", "--plot", tmp_path / "p.png", "--json")
    outcome = ganc("prune", checkpoint, "--scores", scores, "-o", tmp_path / "small", *arguments)
    result = json.loads(outcome.out)
    assert drawn["widths"].items() <= result["widths"].items()
    assert len(set(drawn["widths"].values())) > 1
    ratio = f"{result['prune_ratio']:.4g}"
    assert drawn["title"] == (
        f"model.safetensors · random · prune ratio {ratio} (--speedup 2), global"
    )


def test_commands_refuse_bad_plots(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    common = ("score", checkpoint, "--method", "random")
    same = tmp_path / "x.png"
    assert_one_line(ganc(*common, "-o", same, "--plot", same), 2, "-o and --plot both name")
    assert_one_line(ganc(*common, "--plot", tmp_path / "x.jpg"), 2, ".png")
    assert_one_line(ganc(*common, "--plot", "-"), 2, "--plot cannot be -")
    assert_one_line(ganc(*common, "--plot", tmp_path / "no" / "x.png"), 3, "does not exist")
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.name]
