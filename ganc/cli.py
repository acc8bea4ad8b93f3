"""The command line: one table of commands, and what each failure prints and exits with.

Nothing here or in ``ganc.commands`` imports torch at the top: ``ganc --help`` answers at once.
"""

import functools
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ganc import errors
from ganc.commands._sections import SectionedCommand
from ganc.standard_streams import Outlet, open_standard_streams
from ganc.stop import Ended, end_at_second_signal, end_on_signals
from ganc.terminal import shown

MODULES = {
    "import": "import_",
    "info": "info",
    "score": "score",
    "prune": "prune",
    "distill": "distill",
    "eval": "eval_",
    "export": "export",
    "sample": "sample",
    "weights": "weights",
    "doctor": "doctor",
    "demo": "demo",
}
"""Command → its module in ``ganc.commands``, whose function has the same name."""


class _Lazily(Mapping[str, Any]):
    """Values by name, each made when it is asked for: a command does not wait for the others."""

    def __init__(
        self,
        names: Iterable[str],
        make: Callable[[str], Any],
        made: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._names, self._make = (*names, *made), functools.cache(make)
        self._made = made

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._made[name] if name in self._made else self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _function(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(
        importlib.import_module(f"ganc.commands.{MODULES[name]}"), MODULES[name]
    )
    return function


COMMANDS: Mapping[str, Callable[..., Any]] = _Lazily(MODULES, _function)

HELP = ("-h", "--help")
_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": list(HELP)},
}


def _parsed(name: str) -> Any:
    """Return what parses a command's line."""
    alone = typer.Typer(**_PLAIN)
    alone.command(name, cls=SectionedCommand)(COMMANDS[name])
    return typer.main.get_command(alone)


class _Group(TyperGroup):
    """All commands, as far as they are asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Lazily(MODULES, _parsed, self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the work."""
        return list(self.commands)


_meanings = ", ".join(
    f"{code} {meaning.partition(':')[0]}" for code, meaning in errors.EXIT_CODES.items()
)
app = typer.Typer(
    name="ganc",
    cls=_Group,
    help="Make trained GANs small and fast without losing their quality and diversity.",
    epilog=f"Exit codes: {_meanings}.",
    **_PLAIN,
)


def _print_version(value: bool) -> None:
    if value:
        from ganc.version import __version__

        typer.echo(f"ganc {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line of this process."""
    # OpenMP's waiting threads spin for milliseconds by default. On an idle machine 1000 turns are
    # as fast; where another process wants a core, a training step went from 20 s to 0.5 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    stdout = open_standard_streams()  # first: what is opened later must not be one of them
    end_at_second_signal()
    sys.exit(after_output(run(sys.argv[1:]), stdout))


def after_output(code: int, stdout: Outlet) -> int:
    """Return the exit code of a command, given what became of its output.

    A failed command keeps its code: a requirement that is not met is told to whoever started the
    command, not to whoever reads its output.

    Args:
        code: Of the command itself.
        stdout: Below ``sys.stdout``.
    """
    sys.stdout.flush()
    if stdout.error is None or code not in (errors.EXIT_DONE, errors.EXIT_REQUIREMENT):
        return code
    if isinstance(stdout.error, BrokenPipeError):  # nobody is left to tell
        return code or errors.EXIT_PIPE
    reason = stdout.error.strerror or stdout.error
    _print_error(f"stdout cannot be written: {reason}", "send it to a file or pipe that takes it")
    return code or errors.EXIT_INPUT


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: As in ``sys.argv[1:]``; ``--debug`` may stand anywhere.
    Returns:
        The exit code (design section 4).
    """
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        with end_on_signals():
            if len(rest) == 2 and rest[0] in COMMANDS and rest[1] in HELP:
                print(_help(rest[0]))
                return 0
            # Out of standalone mode typer raises its errors and returns what a command returned.
            code = typer.main.get_command(app).main(rest, prog_name="ganc", standalone_mode=False)
            return code if isinstance(code, int) else 0
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code, message, hint = explain(error)
        if message is not None and "TORCHELASTIC_RUN_ID" in os.environ:
            is_ended = isinstance(error, errors.PeerError) or code == errors.EXIT_TERMINATED
            message = _settled(message, is_ended)
        _print_error(message, hint if message else None)
        return code


def _help(name: str) -> str:
    """Return the help of a command; the parser, which is not asked, takes as long as all else."""
    root = typer.main.get_command(app)
    group = typer.Context(root, info_name="ganc", help_option_names=list(HELP))
    command = _parsed(name)
    text: str = command.get_help(typer.Context(command, info_name=name, parent=group))
    return text


def _settled(message: str, follows: bool) -> str | None:
    """Return what this one of several processes has to say; see ``ganc.launch.settle``."""
    # torchrun ends the others as soon as one has ended: a line and a code that are due stay.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    from ganc.launch import settle

    return settle(message, follows=follows)


def explain(error: BaseException) -> tuple[int, str | None, str | None]:
    """Return exit code, message and hint for whatever ended a command."""
    if isinstance(error, errors.GancError):
        return error.exit_code, error.message, error.hint
    if isinstance(error, Ended):
        return error.exit_code, str(error), None
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__  # typer makes it of an EOFError
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return errors.EXIT_INTERRUPTED, "interrupted", None
    if isinstance(error, typer.Exit):
        return error.exit_code, None, None
    if hasattr(error, "format_message"):
        return errors.EXIT_USAGE, *_usage(error)
    if _is_out_of_memory(error):
        return errors.EXIT_COMPUTATION, "out of memory", "halve --batch"
    what = f"{type(error).__name__}: {error}"
    return (
        errors.EXIT_COMPUTATION,
        f"internal error: {what}",
        "this is a bug in ganc: run again with --debug and report it",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA or torch's allocator of the CPU had no memory left."""
    is_own = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_own or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _usage(error: Any) -> tuple[str, str | None]:
    possibilities = getattr(error, "possibilities", None)
    if possibilities:
        return f"unknown option `{error.option_name}`", f"did you mean `{possibilities[0]}`?"
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f"see {context.command_path} --help" if context is not None else "see ganc --help"
    return message[:1].lower() + message[1:], hint


def _print_error(message: str | None, hint: str | None) -> None:
    if message is not None:
        print(f"error: {shown(' '.join(message.split()))}", file=sys.stderr)
    if hint is not None:
        print(f"hint: {shown(' '.join(hint.split()))}", file=sys.stderr)
