"""Documentation that the code can check."""

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image
from typer.main import get_command

from ganc.cli import COMMANDS, app
from ganc.distillation import recipes
from ganc.evaluation.metrics import METRICS
from ganc.exporters import formats
from ganc.exporters.export import FORMATS
from ganc.extras import EXTRAS
from ganc.scoring import methods
from ganc.scoring.density.recipe import SETTINGS
from ganc.scoring.methods import METHODS
from tests import markdown
from tests.conftest import Outcome
from tests.markdown import fenced

ROOT = markdown.ROOT
ALL_PAGES = [str(page.relative_to(ROOT)) for page in markdown.pages()]
PAGES = sorted((ROOT / "docs" / "scoring").glob("*.md"))
CI = (ROOT / "docs" / "ci.md").read_text()
PIPELINES = [section for section in CI.split("\n## ") if "```yaml" in section]


def script(name: str) -> ModuleType:
    """Import a program of ``docs``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cli_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == script("cli_reference").render(), "run: python docs/cli_reference.py"


def test_readme_table_is_up_to_date() -> None:
    page = (ROOT / "README.md").read_text()
    assert page == script("readme_table").replaced(page), "run: python docs/readme_table.py"


def test_recipe_table_is_up_to_date() -> None:
    page = (ROOT / "docs" / "distillation.md").read_text()
    assert page == script("recipe_table").replaced(page), "run: python docs/recipe_table.py"


def test_extras_are_those_of_the_project_and_on_their_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    page = (ROOT / "docs" / "installing.md").read_text()
    for extra, least in EXTRAS.items():
        parted = [re.split("[>=]=", requirement) for requirement in extras[extra]]
        assert dict(parted) == least
        assert f"| `{extra}` |" in page
        assert all(f"`{requirement}`" in page for requirement in extras[extra])
    assert extras.keys() - EXTRAS.keys() == {"test", "dev"}


@pytest.mark.parametrize(
    ("about", "table"),
    [(methods.ABOUT, METHODS), (formats.ABOUT, FORMATS), (recipes.ABOUT, recipes.RECIPES)],
    ids=["methods", "formats", "recipes"],
)
def test_help_describes_all_there_are(about: dict[str, str], table: dict[str, object]) -> None:
    assert list(about) == list(table)


def test_a_new_recipe_is_missed_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "README.md").read_text()
    monkeypatch.setitem(recipes.RECIPES, "new", recipes.Recipe("new"))
    monkeypatch.setitem(recipes.ABOUT, "new", "one more")
    assert "`new` (one more) |" in script("readme_table").replaced(page)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_and_an_example(name: str) -> None:
    text = COMMANDS[name].__doc__ or ""
    assert f"Example: ganc {name}" in " ".join(text.split())


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_has_a_page(method: str) -> None:
    overview = (ROOT / "docs" / "scoring.md").read_text()
    linked = re.search(
        rf"^\| \[`{method}`\]\(((?:scoring/)?[\w-]+\.md)\) \|", overview, re.MULTILINE
    )
    assert linked, f"docs/scoring.md's table has no row for {method}"
    page = (ROOT / "docs" / linked[1]).read_text()
    assert method in page.splitlines()[0]
    assert re.search(r"^    \S.* = ", page, re.MULTILINE), "a formula"
    assert "ganc score" in page, "an example"


@pytest.mark.parametrize("name", SETTINGS)
def test_density_page_has_every_setting_and_its_default(name: str) -> None:
    value = SETTINGS[name].default
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    shown = {"True": "yes", "False": "no"}.get(shown, shown)
    meaning = SETTINGS[name].metadata["help"].replace("|", "\\|")
    page = (ROOT / "docs" / "density.md").read_text()
    assert f"| `{name}` | {shown} | {meaning} |" in page


def test_every_scoring_page_is_linked() -> None:
    overview = (ROOT / "docs" / "scoring.md").read_text()
    for page in PAGES:
        assert f"(scoring/{page.name})" in overview


@pytest.mark.parametrize("part", ["Source", "Cost", "[Uu]se (it|`)", r"^    \S.* = "])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_scoring_page_is_complete(page: Path, part: str) -> None:
    assert re.search(part, page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_scoring_page_has_one_figure_and_its_command(
    page: Path, ganc: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    assert len(re.findall(r"!\[[^\]]+\]\(", text)) == 1, "one figure, which a line describes"
    file, command = script("scoring_figures").figure(page)
    monkeypatch.chdir(ROOT)
    outcome = ganc(*command, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    resolved = json.loads(outcome.out)["settings"]
    assert file.samefile(resolved["plot"] or resolved["preview"])
    assert Path(resolved["checkpoint"]).is_file()
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 400


def test_every_figure_is_on_a_page_and_small() -> None:
    figures = {script("scoring_figures").figure(page)[0] for page in PAGES}
    assert figures == set((ROOT / "docs" / "scoring").glob("*.png"))
    for figure in (ROOT / "docs").rglob("*.png"):
        assert figure.stat().st_size < 150_000, figure


@pytest.mark.parametrize(
    "text",
    ["no figure", "![a](a.png)\n\nno command\n", "![a](a.png)\n\n    ganc score x\n" * 2],
)
def test_a_figure_without_its_command_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=r"page\.md has [02] figures with a command below, not 1"):
        script("scoring_figures").figure(tmp_path / "page.md")


@pytest.mark.slow
def test_a_figure_s_command_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"an older one")
    command = f"score ganc/showcase/faces32.safetensors --method random --plot {figure}"
    script("scoring_figures").draw(command.split())
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not (ROOT / "faces32.random.scores.safetensors").exists()


def test_every_metric_is_documented() -> None:
    evaluation = (ROOT / "docs" / "evaluation.md").read_text()
    assert all(f"`{name}`" in evaluation for name in METRICS)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_a_page_begins_with_its_only_title(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text.startswith("# ")
    assert len(re.findall("^# ", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)) == 1


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in markdown.links(ROOT / page):
        assert target.exists(), f"{page} → {target}"
        if anchor:
            assert anchor in markdown.anchors(target.read_text()), f"{page} → {target}#{anchor}"


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("## Fit what is left: `prune --refit`", "fit-what-is-left-prune---refit"),
        ("### With a [link](a.md#b), punctuation", "with-a-link-punctuation"),
        ("# l1-in, l1_out", "l1-in-l1_out"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert markdown.anchors(f"{heading}\n{heading}\n") == {anchor, f"{anchor}-1"}


def linked(page: Path) -> set[Path]:
    """Return the files that a page links to."""
    return {target for target, _ in markdown.links(page)}


def test_every_page_is_two_clicks_from_the_readme() -> None:
    first = linked(ROOT / "README.md")
    second = [linked(page) for page in first if page.suffix == ".md"]
    assert {ROOT / page for page in ALL_PAGES} <= first.union(*second)


def test_the_index_links_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    assert {ROOT / page for page in ALL_PAGES} - linked(index) == {index}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_a_page_s_diffs_fit_the_code(page: str) -> None:
    found = markdown.diffs((ROOT / page).read_text())
    assert found
    for file, diff in found.items():
        assert markdown.applied((ROOT / file).read_text(), diff)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_a_page_s_commands_are_understood(
    page: str,
    ganc: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / page).read_text()
    monkeypatch.chdir(tmp_path)
    for recipe in fenced(text, "toml"):
        (tmp_path / recipe.splitlines()[0].removeprefix("# ")).write_text(recipe)
    for name, *arguments in markdown.commands(text):
        line = f"ganc {shlex.join([name, *arguments])}"
        command = get_command(app).commands[name]
        reads = "--latency" in arguments  # a dry run prices layers of files that are not here
        if not reads and any("--dry-run" in option.opts for option in command.params):
            outcome = ganc(name, *arguments, "--dry-run")
            # Wrong usage is 2; a budget in milliseconds reads files to be resolved.
            is_understood = outcome.code == 0 or "does not exist" in outcome.err
            assert is_understood, f"{line}\n{outcome.err}"
        else:
            assert command.make_context(name, arguments).params, line


def test_ci_finds_the_readme_test_command() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("ganc demo")
    assert commands[1].endswith('.venv/bin/pytest -n auto --dist loadfile -m "not gpu"')


@pytest.mark.parametrize("section", PIPELINES, ids=lambda section: section.splitlines()[0])
def test_a_ci_job_runs_the_shell_lines_above_it(section: str) -> None:
    (shell,), (workflow,) = fenced(section, "sh"), fenced(section, "yaml")
    (job,) = yaml.safe_load(workflow)["jobs"].values()
    environment = [f"export {name}={value}" for name, value in job.get("env", {}).items()]
    runs = [step["run"].rstrip() for step in job["steps"] if "run" in step]
    assert "\n".join([*environment, *runs, ""]) == shell


def test_there_are_three_ci_pipelines() -> None:
    assert len(PIPELINES) == 3
