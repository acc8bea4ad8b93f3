"""``ganc distill``."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.distillation.recipes import NUMBERS, RECIPES

if TYPE_CHECKING:
    from rich.table import Table


def _recipe_option(field: Any) -> inspect.Parameter:
    """Return the option that overrides one field of a recipe."""
    values = " / ".join(str(getattr(recipe, field.name)) for recipe in RECIPES.values())
    info = typer.Option(
        help=f"{field.metadata['help']} ({values})", rich_help_panel="Recipe numbers"
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[field.type | None, info],
    )


def _with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of a recipe, in place of its ``**numbers``."""
    signature = inspect.signature(command)
    own = list(signature.parameters.values())[:-1]
    options = [_recipe_option(field) for field in NUMBERS]
    command.__signature__ = signature.replace(parameters=own + options)  # type: ignore[attr-defined]
    return command


@_with_recipe_options
def distill(
    student: Annotated[
        str | None,
        typer.Argument(metavar="STUDENT", help="Pruned checkpoint; not needed with --resume."),
    ] = None,
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Run folder; new or empty.")],
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Checkpoint; --resume finds it again.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder or zip of images, or teacher (default): its samples."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="gan or stylekd (default).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps in all (10 000, or the run's).")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="latest, or one of the run's checkpoints.")
    ] = None,
    freeze_mapping: Annotated[
        bool | None, typer.Option(help="Keep the teacher's mapping network as it is.")
    ] = None,
    resize: Annotated[
        bool | None, typer.Option(help="Scale images of another size (antialiased).")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    sample_every: Annotated[int, typer.Option(min=1, help="Steps between sample grids.")] = 500,
    log_every: Annotated[int, typer.Option(min=1, help="Steps per write of metrics.jsonl.")] = 10,
    keep_last: Annotated[int, typer.Option(min=1, help="Checkpoints that stay.")] = 3,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    device: shared.Device = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of every random draw (0).")
    ] = None,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **numbers: Any,
) -> None:
    """Retrain a pruned generator to give its teacher's images.

    The run folder gets checkpoints, metrics.jsonl, TensorBoard events, sample grids and the result,
    student.safetensors. Recipe numbers show their defaults for gan / stylekd.

    Example: ganc distill small.safetensors --teacher faces.safetensors -o run --steps 2000
    """
    overrides = {name: value for name, value in numbers.items() if value is not None}
    choices: dict[str, Any] = {
        "recipe": recipe, "data": data, "seed": seed, "freeze_mapping": freeze_mapping,
        "resize": resize,
    }  # fmt: skip
    schedule: dict[str, Any] = {
        "steps": steps, "save_every": save_every, "sample_every": sample_every,
        "log_every": log_every, "keep_last": keep_last,
    }  # fmt: skip
    if dry_run:
        from ganc.distillation.settings import Choices, new_settings

        settings = new_settings(Choices(overrides=overrides, **choices)).to_json()
        shown = {"student": student, "teacher": teacher, "output": output, "resume": resume}
        resolved = {**shown, "device": device, **schedule, **settings}
        return shared.emit_settings("distill", resolved, as_json)
    from ganc.distillation.loop import distill as run

    with shared.progress_bar(quiet) as progress:
        result = run(
            student, teacher, output, overrides=overrides, resume=resume, device=device,
            offline=offline, progress=progress, warn=shared.warner(quiet), **choices, **schedule,
        )  # fmt: skip
    shared.emit(vars(result), as_json, lambda: _tables(vars(result)))
    return None


def _tables(result: dict[str, Any]) -> list["Table"]:
    summary = {"student": f"{result['output']}/student.safetensors", "steps": result["steps"]}
    return [
        shared.key_values(summary | {"seconds": result["seconds"]}),
        shared.key_values(result["losses"], "losses at the end"),
    ]
