"""Options: one class each, the same names and types as keywords and on the command line."""

import dataclasses
import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import ganc
from ganc.commands._options import parameters_of
from ganc.distillation.options import DistillOptions, DistillSettings
from ganc.errors import UsageError
from ganc.evaluation.options import EvalOptions, EvalSettings
from ganc.options import flag_of, options_of, parse_count
from ganc.pruning.options import PruneOptions, PruneSettings
from ganc.scoring.options import ScoreOptions, ScoreSettings

PAIRS = [
    (PruneOptions, PruneSettings, "prune"),
    (EvalOptions, EvalSettings, "evaluate"),
    (ScoreOptions, ScoreSettings, "score"),
    (DistillOptions, DistillSettings, "distill"),
]
"""Options, the same as keywords, and the public function that takes them."""


@pytest.mark.parametrize(("options", "settings", "function"), PAIRS)
def test_keywords_are_the_options(options: type, settings: type, function: str) -> None:
    fields = {field.name: field.type for field in dataclasses.fields(options)}
    assert typing.get_type_hints(settings) == fields
    assert not settings.__required_keys__
    (last,) = (
        parameter
        for parameter in inspect.signature(getattr(ganc, function)).parameters.values()
        if parameter.kind is inspect.Parameter.VAR_KEYWORD
    )
    assert typing.get_args(last.annotation) == (settings,)


@pytest.mark.parametrize("options", [pair[0] for pair in PAIRS])
def test_options_are_frozen_documented_and_on_the_command_line(options: type) -> None:
    assert options.__dataclass_params__.frozen
    documented = "".join(kind.__doc__ or "" for kind in options.__mro__)
    made = {parameter.name: parameter for parameter in parameters_of(options)}
    for field in dataclasses.fields(options):
        assert f"        {field.name}: " in documented
        assert made[field.name].default == field.default
        assert field.metadata["help"].endswith(".")


def test_flags_are_made_of_names() -> None:
    assert flag_of("macs") == "--macs"
    assert flag_of("eval_every_nimg") == "--eval-every-nimg"


def test_a_wrong_keyword_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sppedup'; did you mean 'sp"):
        ganc.prune(None, None, sppedup=2.0)
    with pytest.raises(TypeError, match="'x'; allowed: prune_ratio, macs"):
        options_of(PruneOptions, {"x": 1})


@pytest.mark.parametrize(
    ("text", "value"), [("4.1G", 4.1e9), ("5.6M", 5.6e6), ("30000", 3e4), ("2 k", 2e3)]
)
def test_counts(text: str, value: float) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "many", "-1", "4.1X"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="is not a count"):
        parse_count(text)


@pytest.mark.parametrize(
    "settings", [{"prune_ratio": 0.5, "macs": 1.0}, {"prune_ratio": 1.0}, {"round_to": 0}]
)
def test_options_check_themselves(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PruneOptions(**settings)


def test_options_load_no_torch() -> None:
    modules = sorted({pair[0].__module__ for pair in PAIRS})
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    root = Path(ganc.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
