"""Numbers that no option can take: exit 2 in one line, whatever the option and the command."""

import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ganc as library
from ganc.cli import _parsed
from tests.conftest import Outcome, make_model

Ganc = Callable[..., Outcome]
SOUND = {
    "score": ("{model}", "--method", "diversity", "--samples", "2", "-o", "{out}.safetensors"),
    "prune": ("{model}", "--scores", "{scores}", "--refit", "--dry-run", "-o", "{out}"),
    "distill": ("{model}", "--teacher", "{model}", "-o", "{out}", "--dry-run"),
    "eval": ("{model}", "--metrics", "macs"),
    "sample": ("{model}", "-o", "{out}.png"),
    "export": ("{model}", "-o", "{out}.onnx"),
}
"""Command → words with which it works."""


def commands() -> dict[str, Any]:
    return {name: _parsed(name) for name in SOUND}


def numeric(command: str) -> Iterator[tuple[str, type]]:
    """Yield the options of a command that take a number, with the type of number."""
    for parameter in commands()[command].params:
        if parameter.param_type_name != "option":
            continue
        annotation = parameter.type_descriptor.annotation
        for kind in typing.get_args(annotation) or (annotation,):
            if kind in (int, float):
                yield parameter.opts[0], kind


VALUES = {float: ("nan", "inf", "-inf"), int: ("-1", "nan")}
CASES = [
    (command, flag, value)
    for command in SOUND
    for flag, kind in numeric(command)
    for value in VALUES[kind]
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, model = tmp_path_factory.mktemp("options"), make_model()
    library.save(model, folder / "model.safetensors")
    library.score(model, "l1-out", device="cpu").save(folder / "scores.safetensors")
    return {
        "model": folder / "model.safetensors",
        "scores": folder / "scores.safetensors",
        "out": folder / "out",
    }


def test_there_are_options_to_try() -> None:
    assert {command for command, *_ in CASES} >= {*SOUND} - {"export"}
    assert len(CASES) > 100


@pytest.mark.parametrize(("command", "flag", "value"), CASES)
def test_a_value_out_of_range_is_refused(
    ganc: Ganc, files: dict[str, Path], command: str, flag: str, value: str
) -> None:
    words = [word.format(**files) for word in SOUND[command]]
    done = ganc(command, *words, f"{flag}={value}")
    assert done.code == 2, done.err
    assert len([line for line in done.err.splitlines() if line.startswith("error:")]) == 1
    assert flag in done.err or value in done.err
    assert not list(files["out"].parent.glob("out*"))
