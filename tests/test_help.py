"""Help in sections: every option stands under one heading, in the terminal and on the page."""

import re
from typing import Any

import pytest
from typer.main import get_command

from docs.cli_reference import section
from ganc.cli import COMMANDS, HELP, app, run
from ganc.commands._sections import MAIN, MANY, sections_of
from ganc.distillation.recipes import OPPONENTS, RECIPES
from ganc.families import STYLE
from ganc.options import EXECUTION, OUTPUT

commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
LONG = ("score", "distill", "eval")


def shown(name: str) -> str:
    command = commands[name]
    return str(command.get_help(command.make_context(name, [], resilient_parsing=True)))


@pytest.mark.parametrize("name", LONG)
def test_a_long_command_reads_as_short_lists(name: str) -> None:
    sections = sections_of(commands[name].params)
    headings = [*sections]
    assert headings[0] == MAIN
    assert headings[-2:] == [EXECUTION, OUTPUT]
    recipe = [heading for heading in headings if heading.startswith("Recipe numbers")]
    assert all(len(sections[heading]) <= 12 for heading in headings if heading not in recipe)
    text = shown(name)
    places = [text.index(f"\n{heading}:\n") for heading in headings]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_once_where_page_and_terminal_have_it(name: str) -> None:
    options = [p for p in commands[name].params if p.param_type_name == "option"]
    sections = sections_of(options)
    assert sorted(p.name for members in sections.values() for p in members) == sorted(
        p.name for p in options
    )
    assert len(sections) == 1 or len(options) > MANY
    page, text = section(name, commands[name]), shown(name)
    for heading in sections:
        if heading != MAIN:
            assert f"\n{heading}:\n" in page
            assert f"\n{heading}:\n" in text
    lists = text.partition(f"\n{MAIN}:\n")[2]  # behind the example, which may wrap
    for option in options:
        begins = rf"^  (?:-\w, )?{re.escape(option.opts[0])}(?![\w-])"
        assert len(re.findall(begins, lists, re.M)) == 1, option.name


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", HELP)
def test_quick_help_is_the_parsers(
    name: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, flag]) == 0
    quick = capsys.readouterr().out
    get_command(app).main([name, flag], prog_name="ganc", standalone_mode=False)
    assert capsys.readouterr().out == quick


def test_recipe_numbers_say_who_reads_them() -> None:
    headings = [h for h in sections_of(commands["distill"].params) if h.startswith("Recipe")]
    assert "Recipe numbers" in headings
    assert "Recipe numbers of sngan" in headings
    style = [n for n, recipe in RECIPES.items() if recipe.kind == STYLE and n not in OPPONENTS]
    assert f"Recipe numbers of {', '.join(style)}" in headings
