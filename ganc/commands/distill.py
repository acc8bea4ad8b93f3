"""``ganc distill``."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.distillation.recipes import NUMBERS, RECIPES, SNGAN, STYLE, TRANSLATION

if TYPE_CHECKING:
    from rich.table import Table


PANELS = {
    (STYLE,): "Recipe numbers: StyleGAN",
    (STYLE, SNGAN): "Recipe numbers: StyleGAN and SN-GAN",
    (SNGAN,): "Recipe numbers: SN-GAN",
    (TRANSLATION,): "Recipe numbers: translators",
}
"""Kinds that read a number → the heading it stands under; "Recipe numbers" for all kinds."""


def _recipe_option(field: Any) -> inspect.Parameter:
    """Return the option that overrides one field of a recipe."""
    kinds = field.metadata["kinds"]
    readers = [recipe for recipe in RECIPES.values() if recipe.kind in kinds]
    values = [str(getattr(recipe, field.name)) for recipe in readers]
    shown = values[0] if len(set(values)) == 1 else " / ".join(values)
    info = typer.Option(
        help=f"{field.metadata['help']} ({shown})",
        rich_help_panel=PANELS.get(kinds, "Recipe numbers"),
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
        typer.Argument(metavar="STUDENT", help="Pruned checkpoint."),
    ] = None,
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Run folder; new or empty.")],
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Checkpoint; none for plain training. --resume finds it."),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="A new student, in place of STUDENT.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", min=4, help="Its size (the teacher's).")
    ] = None,
    settings: shared.Set = None,
    init: Annotated[
        str, typer.Option("--init", help="pruned: STUDENT's weights; scratch: random ones.")
    ] = "pruned",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder or zip of images, or teacher (default): its samples."),
    ] = None,
    data_b: Annotated[
        str | None, typer.Option("--data-b", help="Translators: images of the other side.")
    ] = None,
    swap: Annotated[
        bool | None, typer.Option(help="Translators: from the second side to the first.")
    ] = None,
    unpaired: Annotated[
        bool | None,
        typer.Option(
            "--unpaired/--no-unpaired",
            help="Translators: images without partners (as the model was trained; a new"
            " resnet_translator: CycleGAN, a new unet_translator: pix2pix).",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help=f"{', '.join(RECIPES)} (the family's).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps in all (10 000, or the run's).")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="latest, or one of the run's checkpoints.")
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
    precision: Annotated[
        str, typer.Option("--precision", help="auto (bf16 on CUDA), fp32 or bf16.")
    ] = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of every random draw (0).")
    ] = None,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **numbers: Any,
) -> None:
    """Retrain a pruned generator to give its teacher's images, or train one as a plain GAN.

    The run folder gets checkpoints, metrics.jsonl, TensorBoard events, sample grids and the result,
    student.safetensors. Recipe numbers show their defaults for the recipes that read them.

    Example: ganc distill small.safetensors --teacher faces.safetensors -o run --steps 2000
    """
    overrides = {name: value for name, value in numbers.items() if value is not None}
    choices: dict[str, Any] = {
        "recipe": recipe, "data": data, "data_b": data_b, "swap": swap, "unpaired": unpaired,
        "seed": seed, "resize": resize,
    }  # fmt: skip
    schedule: dict[str, Any] = {
        "steps": steps, "save_every": save_every, "sample_every": sample_every,
        "log_every": log_every, "keep_last": keep_last,
    }  # fmt: skip
    config = dict(map(shared.parse_setting, settings or ()))
    config |= {} if resolution is None else {"img_resolution": resolution}
    start: dict[str, Any] = {"architecture": architecture, "config": config, "init": init}
    if dry_run:
        resolved = _resolved(architecture or _architecture(student or teacher), teacher, choices,
                             overrides)  # fmt: skip
        shown = {"student": student, "teacher": teacher, "output": output, "resume": resume}
        resolved = {**shown, **start, "device": device, "precision": precision, **schedule,
                    **resolved}  # fmt: skip
        return shared.emit_settings("distill", resolved, as_json)
    from ganc.distillation.loop import distill as run
    from ganc.parallel import process_group, rank

    with process_group(), shared.progress_bar(quiet) as progress:
        result = run(
            student, teacher, output, overrides=overrides, resume=resume, device=device,
            precision=precision, offline=offline, progress=progress, warn=shared.warner(quiet),
            **start, **choices, **schedule,
        )  # fmt: skip
        is_first = rank() == 0
    if is_first:
        shared.emit(vars(result), as_json, lambda: _tables(vars(result)))
    return None


def _architecture(ckpt: str | None) -> str | None:
    """Return the family that the header of one of our files names; None where no model may load."""
    if ckpt is None:
        return None
    from pathlib import Path

    from ganc.checkpoints.describe import info, is_own

    return str(info(ckpt)["architecture"]) if is_own(Path(ckpt)) else None


def _resolved(
    architecture: str | None,
    teacher: str | None,
    choices: dict[str, Any],
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """Return a run's settings, as far as they are known without loading a model."""
    from ganc.distillation.recipes import resolve_recipe
    from ganc.distillation.settings import Choices, new_settings

    given = Choices(overrides=overrides, **choices)
    given.check()
    if architecture is not None:
        return new_settings(given, architecture, has_teacher=teacher is not None).to_json()
    if given.recipe is None:
        return {**choices, **overrides}
    return {**choices, "recipe": resolve_recipe(given.recipe, overrides).to_json()}


def _tables(result: dict[str, Any]) -> list["Table"]:
    summary = {"student": f"{result['output']}/student.safetensors", "steps": result["steps"]}
    return [
        shared.key_values(summary | {"seconds": result["seconds"]}),
        shared.key_values(result["losses"], "losses at the end"),
    ]
