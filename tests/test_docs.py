"""Documentation that the code can check."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from ganc.cli import COMMANDS
from ganc.evaluation.metrics import METRICS
from ganc.scoring.score import METHODS

ROOT = Path(__file__).parents[1]


def cli_reference() -> ModuleType:
    path = ROOT / "docs" / "cli_reference.py"
    spec = importlib.util.spec_from_file_location("cli_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cli_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == cli_reference().render(), "run: python docs/cli_reference.py"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_and_an_example(name: str) -> None:
    text = COMMANDS[name].__doc__ or ""
    assert f"Example: ganc {name}" in " ".join(text.split())


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_has_a_page(method: str) -> None:
    overview = (ROOT / "docs" / "scoring.md").read_text()
    linked = re.search(rf"^\| \[`{method}`\]\((scoring/[\w-]+\.md)\) \|", overview, re.MULTILINE)
    assert linked, f"docs/scoring.md's table has no row for {method}"
    page = (ROOT / "docs" / linked[1]).read_text()
    assert method in page.splitlines()[0]
    assert re.search(r"^    \S.* = ", page, re.MULTILINE), "a formula"
    assert "ganc score" in page, "an example"


def test_every_scoring_page_is_linked() -> None:
    overview = (ROOT / "docs" / "scoring.md").read_text()
    for page in (ROOT / "docs" / "scoring").glob("*.md"):
        assert f"(scoring/{page.name})" in overview


def test_figures_are_small() -> None:
    for figure in (ROOT / "docs").rglob("*.png"):
        assert figure.stat().st_size < 150_000, figure


def test_every_metric_is_documented() -> None:
    evaluation = (ROOT / "docs" / "evaluation.md").read_text()
    assert all(f"`{name}`" in evaluation for name in METRICS)


@pytest.mark.parametrize(
    "page",
    ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{page} → {target}"


def test_ci_finds_the_readme_test_command() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("ganc demo")
    assert commands[1].endswith('pytest -m "not gpu"')
