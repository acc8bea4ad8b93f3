"""``ganc distill``."""

import inspect
from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._options import LAST, blocks_of, keyword, with_options
from ganc.distillation.options import (
    CHECKPOINTS,
    CHOICES,
    EVALUATION,
    MEANS,
    SCHEDULE,
    DistillOptions,
)
from ganc.distillation.recipes import ABOUT, NUMBERS, OPPONENTS, RECIPES, is_read
from ganc.options import OUTPUT

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from ganc.distillation.evaluations import EvalRequest, Evaluate
    from ganc.distillation.schedule import Best
    from ganc.progress import Progress, Warn


_SHOWN = {name: recipe for name, recipe in RECIPES.items() if name not in OPPONENTS}


def _heading(kinds: tuple[str, ...]) -> str:
    """Return the heading of the numbers that some kinds of training read, or all: ()."""
    readers = [name for name, recipe in _SHOWN.items() if recipe.kind in kinds]
    return f"Recipe numbers of {', '.join(readers)}" if readers else "Recipe numbers"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _grouped(defaults: dict[str, str]) -> str:
    """Return the most common default, and those of the recipes that have another one."""
    usual = Counter(defaults.values()).most_common(1)[0][0]
    others: dict[str, list[str]] = {}
    for name, value in defaults.items():
        if value != usual:
            others.setdefault(value, []).append(name)
    return "; ".join([usual, *(f"{', '.join(names)} {value}" for value, names in others.items())])


def _recipe_option(field: Any) -> inspect.Parameter:
    """Return the option that overrides one field of a recipe."""
    defaults = {
        name: _shown(getattr(recipe, field.name))
        for name, recipe in _SHOWN.items()
        if is_read(field, recipe.kind)
    }
    info = typer.Option(
        help=f"{field.metadata['help']} ({_grouped(defaults)})",
        rich_help_panel=_heading(field.metadata["kinds"]),
    )
    return keyword(field.name, None, Annotated[field.type | None, info])


STARTS = {
    "resolution": "architecture", "recipe": "init", "keep_best": "steps",
    "eval_metrics": "eval_every", "device": "offline", "as_json": "precision",
}  # fmt: skip

_Student = Annotated[
    str | None,
    typer.Argument(metavar="STUDENT", help="Pruned checkpoint."),
]
_Output = Annotated[
    str,
    typer.Option("--output", "-o", help="Run folder; new or empty.", rich_help_panel=OUTPUT),
]
_Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher", help="Teacher checkpoint; leave out for plain training. --resume finds it."
    ),
]
_Resolution = Annotated[
    int | None,
    typer.Option("--resolution", min=4, help="Resolution of the new student (the teacher's)."),
]
_Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"{shared.choices(ABOUT)}, or FILE.toml. Default: the family's. How published"
        " commands differ: docs/distillation.md.",
    ),
]
_KeepBest = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC[:K]",
        help="Also keep the K (1) best by this metric.",
        rich_help_panel=CHECKPOINTS,
    ),
]
_EvalMetrics = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…",
        help="Metrics, as for ganc eval (fd).",
        rich_help_panel=EVALUATION,
    ),
]
_EvalSamples = Annotated[
    int | None,
    typer.Option(min=2, help="Samples per evaluation (1000).", rich_help_panel=EVALUATION),
]
_EvalInput = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Translators: images to translate.",
        rich_help_panel=EVALUATION,
    ),
]


@with_options({**blocks_of(DistillOptions, STARTS), LAST: map(_recipe_option, NUMBERS)})
def distill(
    student: _Student = None,
    *,
    output: _Output,
    teacher: _Teacher = None,
    resolution: _Resolution = None,
    settings: shared.Set = None,
    recipe: _Recipe = None,
    keep_best: _KeepBest = None,
    eval_metrics: _EvalMetrics = None,
    eval_samples: _EvalSamples = None,
    eval_input: _EvalInput = None,
    device: shared.Device = "auto",
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **given: Any,
) -> None:  # long because it names what run folder, evaluation and network are told, once each
    """Train a pruned generator to reproduce its teacher's images, or train a plain GAN.

    The run folder holds checkpoints, metrics.jsonl, TensorBoard events, sample grids and the
    result, student.safetensors. Defaults of recipe numbers are in parentheses; a recipe with
    another one is named.

    Example: ganc distill small.safetensors --teacher faces.safetensors -o run --steps 2000
    """
    own = {field.name: given.pop(field.name) for field in fields(DistillOptions)}
    options = DistillOptions(**own)
    overrides = {name: value for name, value in given.items() if value is not None}
    schedule = options.of(SCHEDULE) | {
        "keep_best": None if keep_best is None else _parse_best(keep_best),
        "eval_settings": _eval_settings(eval_metrics, eval_samples, eval_input, keep_best),
    }
    config = dict(settings or ()) | ({} if resolution is None else {"img_resolution": resolution})
    resume: str | None = own["resume"]
    has_teacher = bool(teacher or resume)
    _check_metrics(schedule, has_teacher=has_teacher, data=own["data"], resume=resume)
    if dry_run:
        family = options.architecture or _architecture(student or teacher)
        chosen = {"recipe": recipe, **options.of(CHOICES)}
        learned = _resolved(family, teacher, chosen, overrides)
        own_init = learned["recipe"]["init"] if isinstance(learned.get("recipe"), dict) else None
        resolved = {
            "student": student, "teacher": teacher, "output": output, "resume": resume,
            "architecture": options.architecture, "config": config,
            "init": options.init or own_init, "device": device, **options.of(MEANS),
            **_shown_schedule(schedule, resume), **learned,
        }  # fmt: skip
        return shared.emit(
            {"command": "distill", "settings": resolved},
            as_json,
            lambda: _settings_tables(resolved),
        )
    from ganc.collectives import rank
    from ganc.commands._training_view import training_view
    from ganc.devices import resolve_device
    from ganc.distillation.distill import distill as run
    from ganc.launch import process_group

    with process_group(resolve_device(device)) as own_device:
        is_first = rank() == 0
        warn = shared.warner(quiet or not is_first)
        if options.profile and own_device.type == "cuda":
            warn("--profile waits for the device after every phase: the run is slower than without")
        with training_view(quiet or not is_first) as (progress, on_log):
            result = run(
                student, teacher, output, config=config, recipe=recipe, overrides=overrides,
                device=own_device, keep_best=schedule["keep_best"],
                eval_settings=schedule["eval_settings"], progress=progress, on_log=on_log,
                warn=warn, evaluate=_evaluator(own_device, options.offline, progress, warn),
                **own,
            )  # fmt: skip
    if is_first:
        shown = {name: value for name, value in vars(result).items() if value or name in ALWAYS}
        shared.emit(shown, as_json, lambda: _tables(vars(result)))
    return None


ALWAYS = ("output", "steps", "losses", "seconds")
"""Keys of the JSON document; ``evaluation``, ``best`` and ``profile`` join them where asked for."""

EVAL_DEFAULTS: dict[str, Any] = {"metrics": ["fd"], "samples": 1000, "input": None}


def _parse_best(text: str) -> "Best":
    """Parse fd or precision:3; the table of values knows the direction."""
    from ganc.distillation.schedule import Best
    from ganc.errors import UsageError, unknown_name
    from ganc.evaluation.metrics import METRICS
    from ganc.values import VALUES

    metric, colon, count = text.partition(":")
    if colon and not count.isdecimal():
        raise UsageError(f"--keep-best {text} is not valid; allowed: METRIC or METRIC:K")
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return Best(metric, int(count or 1), VALUES[metric].is_higher_better)


def _eval_settings(
    metrics: str | None, samples: int | None, images: str | None, keep_best: str | None
) -> dict[str, Any]:
    """Return what was given; the metric that checkpoints are kept by is always measured."""
    names = [] if metrics is None else [name.strip() for name in metrics.split(",")]
    if keep_best is not None:
        names = list(dict.fromkeys([*names, keep_best.partition(":")[0]]))
    given = {"metrics": names or None, "samples": samples, "input": images}
    return {name: value for name, value in given.items() if value is not None}


def _check_metrics(
    schedule: dict[str, Any], *, has_teacher: bool, data: str | None, resume: str | None
) -> None:
    """Refuse options that would have no effect, and metrics that cannot be measured."""
    from ganc.errors import UsageError

    given = schedule["eval_settings"]
    if given and not schedule["eval_every"] and resume is None:
        flag = "--keep-best" if schedule["keep_best"] else f"--eval-{next(iter(given))}"
        raise UsageError(f"{flag} needs evaluations", "add --eval-every 1000")
    if schedule["eval_every"]:
        from ganc.evaluation.metrics import check_metrics

        has_data = resume is not None or data not in (None, "teacher")
        names = given.get("metrics", EVAL_DEFAULTS["metrics"])
        check_metrics(names, has_teacher=has_teacher, has_data=has_data)


def _evaluator(
    device: "torch.device", offline: bool, progress: "Progress", warn: "Warn"
) -> "Evaluate":
    """Return how a run is evaluated: as ``ganc eval`` would."""
    from ganc.evaluation.evaluate import evaluate

    def measure(request: "EvalRequest") -> dict[str, float]:
        chosen = {**EVAL_DEFAULTS, **request.settings}
        values: dict[str, float] = evaluate(
            request.student, chosen["metrics"], samples=chosen["samples"], input=chosen["input"],
            teacher=request.teacher, data=request.data, resize=request.resize, device=device,
            offline=offline, progress=progress, warn=warn,
        )["metrics"]  # fmt: skip
        return values

    return measure


def _shown_schedule(schedule: dict[str, Any], resume: str | None) -> dict[str, Any]:
    """Return the schedule as --dry-run shows it; a resumed run fills in its own."""
    from ganc.distillation.schedule import resolve_schedule

    if resume is not None:
        return {name: value for name, value in schedule.items() if value}
    shown = resolve_schedule(schedule, {}).to_json()
    return shown | {"eval_settings": {**EVAL_DEFAULTS, **shown["eval_settings"]}}


def _settings_tables(settings: dict[str, Any]) -> list["Table"]:
    """Return the settings, with a row for each number of the recipe."""
    groups = {name: value for name, value in settings.items() if isinstance(value, dict) and value}
    plain = {name: value for name, value in settings.items() if name not in groups}
    tables = [shared.key_values(plain)]
    for name, values in groups.items():
        tables.append(shared.key_values(values, name.replace("_", " ")))
    return tables


def _architecture(ckpt: str | None) -> str | None:
    """Return the family that the header of one of our files names; None where no model may load."""
    if ckpt is None:
        return None
    from pathlib import Path

    from ganc.checkpoints.describe import info
    from ganc.checkpoints.header import is_own

    return str(info(ckpt)["architecture"]) if is_own(Path(ckpt)) else None


def _resolved(
    architecture: str | None,
    teacher: str | None,
    choices: dict[str, Any],
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """Return a run's settings, as far as they are known without loading a model."""
    from ganc.distillation.settings import Choices, new_settings

    given = Choices(overrides=overrides, **choices)
    given.check()
    if architecture is not None:
        return new_settings(given, architecture, has_teacher=teacher is not None).to_json()
    if given.recipe is None:
        return {**choices, **overrides}
    return {**choices, "recipe": given.resolve(given.recipe).to_json()}


def _tables(result: dict[str, Any]) -> list["Table"]:
    summary = {"student": f"{result['output']}/student.safetensors", "steps": result["steps"]}
    summary |= {"seconds": result["seconds"]}
    if result["best"]:
        summary |= {"best": result["best"]}
    tables = [shared.key_values(summary), shared.key_values(result["losses"], "losses at the end")]
    if result["evaluation"]:
        tables.append(shared.key_values(result["evaluation"], "last evaluation"))
    return tables + ([_profile(result["profile"])] if result["profile"] else [])


def _profile(phases: dict[str, dict[str, float]]) -> "Table":
    from rich.table import Table

    table = Table(title="phases, each without those inside it", title_justify="left")
    for column in ("phase", "calls", "seconds", "ms per call", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for name, row in phases.items():
        numbers = (f"{row['calls']}", f"{row['seconds']:.2f}",
                   f"{1000 * row['seconds_per_call']:.1f}", f"{row['share']:.1%}")  # fmt: skip
        table.add_row(name, *numbers)
    return table
