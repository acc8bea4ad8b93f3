"""``ganc score``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared

if TYPE_CHECKING:
    from rich.table import Table

    from ganc.scores import Scores


def _samples(text: str) -> int | str:
    """Parse a count, or auto."""
    if text != "auto" and not text.isdecimal():
        raise typer.BadParameter(f"`{text}` is no number of samples; allowed: a count, or auto")
    return text if text == "auto" else int(text)


def score(
    ckpt: shared.Checkpoint,
    method: Annotated[
        str, typer.Option("--method", help="diversity, l1-out or random.")
    ] = "diversity",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="Default: <stem>.<method>.scores.safetensors; - is stdout."
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples",
            parser=_samples,
            metavar="N|auto",
            help="Latents, or auto: until it is sure; default: the method's.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", help="Latents per step, a setting of the method (diversity: 5)."),
    ] = None,
    noise_mode: Annotated[
        str, typer.Option("--noise-mode", help="random, const or none.")
    ] = "random",
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="diversity: length of the step; default 5, for stylegan3 10."),
    ] = None,
    num_directions: Annotated[
        int, typer.Option("--num-directions", min=2, help="diversity: directions per batch.")
    ] = 10,
    gradient: Annotated[
        str | None,
        typer.Option(
            "--gradient",
            help="diversity: through both images or base alone; default both, for stylegan3 base.",
        ),
    ] = None,
    truncation_psi: Annotated[
        float, typer.Option("--truncation", help="diversity: truncation of the latents.")
    ] = 1.0,
    prune_ratio: Annotated[
        float,
        typer.Option("--prune-ratio", help="Where --samples auto looks at the kept channels."),
    ] = 0.7,
    effective: Annotated[
        bool, typer.Option("--effective", help="l1-out: modulated weights, averaged over latents.")
    ] = False,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
) -> None:
    """Measure how much every channel matters.

    Example: ganc score faces.safetensors --method diversity --samples 1000
    """
    settings: dict[str, Any] = {
        "samples": samples, "prune_ratio": prune_ratio, "batch": batch, "seed": seed,
        "noise_mode": noise_mode, "alpha": alpha, "num_directions": num_directions,
        "gradient": gradient, "truncation_psi": truncation_psi, "effective": effective,
    }  # fmt: skip
    from ganc.parallel import process_group, rank
    from ganc.scoring.score import resolve
    from ganc.scoring.score import score as run

    parts = resolve(method, **settings)
    name = method if len(parts) == 1 else "mix"
    target = output or f"{Path(ckpt).stem if ckpt != '-' else 'stdin'}.{name}.scores.safetensors"
    shared.forbid_json_on_stdout(target, as_json)
    if dry_run:
        recorded = {part.name: part.recorded() for part in parts}
        resolved = {
            "checkpoint": ckpt, "method": method, "output": target, "device": device,
            **recorded.get(method, recorded),
        }  # fmt: skip
        return shared.emit_settings("score", resolved, as_json)
    shared.check_output(target, force)
    with process_group():
        is_first = rank() == 0
        model = shared.load_model(ckpt, quiet or not is_first)
        with shared.progress_bar(quiet or not is_first) as progress:
            scores = run(model, method, **settings, device=device, progress=progress)
    return _finish(scores, target, force, as_json) if is_first else None


def _finish(scores: "Scores", target: str, force: bool, as_json: bool) -> None:
    import sys

    if target == "-":
        scores.save(sys.stdout.buffer)
        return
    scores.save(target, force=force)
    result = {
        "method": scores.method,
        "samples": scores.settings["samples"] or None,
        "output": target,
        "groups": [
            {
                "name": name, "width": len(values), "min": values.min().item(),
                "mean": values.mean().item(), "max": values.max().item(),
            }
            for name, values in scores.values.items()
        ],
        "settings": dict(scores.settings),
    }  # fmt: skip
    shared.emit(result, as_json, lambda: [_table(result)])


def _table(result: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=f"{result['method']} → {result['output']}", title_justify="left")
    table.add_column("group")
    for column in ("width", "min", "mean", "max"):
        table.add_column(column, justify="right")
    for group in result["groups"]:
        numbers = [shared.format_value(group[key]) for key in ("width", "min", "mean", "max")]
        table.add_row(group["name"], *numbers)
    return table
