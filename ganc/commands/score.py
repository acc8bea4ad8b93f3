"""``ganc score``."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganc.commands import _shared as shared
from ganc.commands._dash import STDIN, STDOUT
from ganc.commands._options import blocks_of, with_options
from ganc.options import OUTPUT, options_of
from ganc.scoring.methods import ABOUT
from ganc.scoring.options import CONTENT, ScoreOptions

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from ganc.models.model import Model
    from ganc.progress import Progress
    from ganc.scores import Scores
    from ganc.scoring.request import ScoreRequest
    from ganc.scoring.score import Part


_Method = Annotated[
    str,
    typer.Option(
        "--method", help=f"{shared.choices(ABOUT)}, or a mix such as diversity:0.7,content:0.3."
    ),
]
_Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help=f"Default: <stem>.<method>.scores.safetensors; {STDOUT.help}.",
        rich_help_panel=OUTPUT,
    ),
    STDOUT,
]
_Preview = Annotated[
    str | None,
    typer.Option(
        "--preview",
        metavar="PNG",
        help="First draw what the masks of 16 samples protect.",
        rich_help_panel=CONTENT,
    ),
]
_Compare = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="SCORES",
        help=f"Other scores of this checkpoint: print rank correlation and overlap; {STDIN.help}.",
        rich_help_panel=OUTPUT,
    ),
    STDIN,
]

STARTS = {"preview": "samples", "force": "density"}
"""The command's own option → the first one of the methods' that precede it in the help."""


@with_options(blocks_of(ScoreOptions, STARTS))
def score(
    ckpt: shared.Checkpoint,
    *,
    method: _Method = "diversity",
    output: _Output = None,
    preview: _Preview = None,
    compare: _Compare = None,
    plot: shared.Plot = None,
    device: shared.Device = "auto",
    force: shared.Force = False,
    as_json: shared.Json = False,
    quiet: shared.Quiet = False,
    dry_run: shared.DryRun = False,
    **settings: Any,
) -> None:
    """Measure how much every channel matters.

    Example: ganc score faces.safetensors --method diversity --samples 1000
    """
    from ganc.devices import resolve_device
    from ganc.launch import launched_rank, process_group
    from ganc.scoring.score import resolve, score_parts

    stem = "stdin" if ckpt == "-" else Path(ckpt).stem
    target = output or f"{stem}.{'mix' if ',' in method else method}.scores.safetensors"
    options = options_of(ScoreOptions, settings)
    parts = [part.beside(stem, target) for part in resolve(method, **settings)]
    looked_at = _check_outputs(target, compare, preview, plot, parts)
    extra = {"compare": compare, "plot": plot, "preview": preview}
    is_first = launched_rank() == 0
    if dry_run:
        given = {"checkpoint": ckpt, "method": method, "output": target, "device": device}
        resolved = given | _resolved(parts, method, options.network) | extra
        return shared.emit_settings("score", resolved, as_json) if is_first else None
    with process_group(resolve_device(device)) as own_device:
        _check_files(target, plot, preview if is_first else None, parts, force)
        other = None if compare is None else shared.load_scores(compare)
        model = shared.load_model(ckpt, quiet or not is_first)
        content_hash = model.content_hash()
        _check_compared(other, content_hash, [part.widths(model) for part in parts], compare)
        with shared.progress_bar(quiet or not is_first) as progress:
            if preview and looked_at and is_first:
                _draw_preview(model, looked_at, preview, own_device, force, progress)
            for part in parts if force and is_first else ():
                part.clear(is_done=False)
            scores = score_parts(
                model, method, parts, content_hash=content_hash, device=own_device,
                progress=progress, warn=shared.warner(quiet or not is_first),
            )  # fmt: skip
    if not is_first:
        return None
    scores.save(sys.stdout.buffer if target == "-" else target, force=force)
    for part in parts:
        part.clear(is_done=True)
    result = _result(scores, target, options.prune_ratio)
    if other is not None:
        result["compare"] = {"scores": compare, **_agreement(scores, other, options.prune_ratio)}
    if plot is not None:
        _plot(scores, plot, shared.checkpoint_name(ckpt), options.prune_ratio, force)
    result |= {name: file for name, file in (("plot", plot), ("preview", preview)) if file}
    if target != "-":
        shared.emit(result, as_json, lambda: _tables(result, _samples_taken(scores, parts)))
    return None


def _check_outputs(
    target: str, compare: str | None, preview: str | None, plot: str | None, parts: "Sequence[Part]"
) -> "ScoreRequest | None":
    """Return the request whose masks are to be drawn.

    Raises:
        UsageError: Two outputs are one, or no method asked for has masks.
    """
    from ganc.errors import UsageError

    if target == "-" and compare is not None:
        raise UsageError("-o - and --compare both write stdout", "name a file with -o")
    if preview is None:
        return None
    requests = [part.request for part in parts if part.name == "content"]
    if not requests:
        raise UsageError("--preview shows masks, which only method content has")
    if Path(preview).resolve() in [Path(p).resolve() for p in (target, plot) if p]:
        raise UsageError(f"--preview {preview} is another output as well", "give it another name")
    return requests[0]


def _check_files(
    target: str, plot: str | None, preview: str | None, parts: "Sequence[Part]", force: bool
) -> None:
    """Refuse outputs that are there, before the slow part.

    Only the first process has a ``preview``: others might see that it was written already.
    """
    shared.check_output(target, force)
    shared.check_plot(plot, target, force)
    for part in parts:
        part.check_files(force=force)
    if preview is not None:
        shared.check_output(preview, force)


def _draw_preview(
    model: "Model",
    request: "ScoreRequest",
    path: str,
    device: "torch.device",
    force: bool,
    progress: "Progress",
) -> None:
    from ganc.data.grid import save_image
    from ganc.scoring.content import preview

    picture = preview(
        model, content=request.content, num=min(16, request.samples), seed=request.seed,
        noise_mode=request.noise_mode, device=device, progress=progress, offline=request.offline,
    )  # fmt: skip
    save_image(picture, Path(path), force=force)


def _check_compared(
    other: "Scores | None", content_hash: str, parts: Sequence[Mapping[str, int]], where: str | None
) -> None:
    """Refuse scores of anything but the groups that all parts of a mix are going to have."""
    from ganc.scoring.compare import check_comparable

    if other is None:
        return
    first, *others = parts
    widths = {name: n for name, n in first.items() if all(name in own for own in others)}
    check_comparable(other, content_hash, widths, str(where))


def _resolved(parts: "Sequence[Part]", method: str, network: str | None) -> dict[str, Any]:
    """Return the settings of a method, or of each in a mix."""
    recorded = {part.name: part.recorded() for part in parts}
    return {"network": network, **recorded.get(method, recorded)}


def _agreement(scores: "Scores", other: "Scores", prune_ratio: float) -> dict[str, Any]:
    from ganc.scoring.compare import compare_scores

    return {"method": other.method, **compare_scores(scores, other, prune_ratio)}


def _result(scores: "Scores", target: str, prune_ratio: float) -> dict[str, Any]:
    return {
        "method": scores.method,
        "samples": scores.settings["samples"] or None,
        "output": target,
        "prune_ratio": None if scores.thresholds else prune_ratio,
        "groups": [
            {
                "name": name, "width": len(values), "kept": _kept(scores, name, prune_ratio),
                "min": values.min().item(), "mean": values.mean().item(),
                "max": values.max().item(),
            }
            for name, values in scores.values.items()
        ],
        "settings": dict(scores.settings),
    }  # fmt: skip


def _kept(scores: "Scores", group: str, prune_ratio: float) -> int:
    """Return how many channels stay: at the scores' own budget, or at ``prune_ratio``."""
    from ganc.scores import kept_channels

    values = scores.values[group]
    if scores.thresholds:
        return int((values >= scores.thresholds[group]).sum())
    return len(kept_channels(values, prune_ratio))


def _plot(scores: "Scores", path: str, checkpoint: str, prune_ratio: float, force: bool) -> None:
    from ganc.scoring.plot import plot_scores, save_plot

    widths = {name: _kept(scores, name, prune_ratio) for name in scores.values}
    budget = "its own budget" if scores.thresholds else f"prune ratio {prune_ratio:g}"
    title = f"{checkpoint} · {scores.method} · {budget}"
    save_plot(plot_scores(scores, widths, title), Path(path), force=force)


def _samples_taken(scores: "Scores", parts: "Sequence[Part]") -> str | None:
    """Return how many samples each method looked at; None where they need none."""
    settings = scores.settings.get("mix", {scores.method: scores.settings})
    texts = []
    for part in parts:
        if part.request.samples:
            taken = [settings[part.name].get(key) for key in ("samples", "samples_b")]
            text = " + ".join(shared.format_value(count) for count in taken if count is not None)
            if part.request.until_stable:
                text += f" (auto, of {shared.format_value(part.request.samples)} at most)"
            texts.append(text if len(parts) == 1 else f"{part.name} {text}")
    return ", ".join(texts) or None


def _tables(result: dict[str, Any], samples: str | None) -> list["Table"]:
    summary = {"output": result["output"], "method": result["method"], "samples": samples}
    summary |= {key: result[key] for key in ("plot", "preview") if key in result}
    ratio = result["prune_ratio"]
    title = "kept at its own budget" if ratio is None else f"kept at --prune-ratio {ratio:g}"
    tables = [_groups_table(title, result["groups"], ("width", "kept", "min", "mean", "max"))]
    if "compare" in result:
        compared = result["compare"]
        summary["compared with"] = f"{compared['scores']} ({compared['method']})"
        columns = ("width", "kept", "overlap", "spearman")
        tables.append(_groups_table("agreement of the two scores", compared["groups"], columns))
        tables[-1].add_section()
        tables[-1].add_row("all", *(shared.format_value(compared[key]) for key in columns))
    return [shared.key_values(summary), *tables]


def _groups_table(title: str, groups: list[dict[str, Any]], columns: tuple[str, ...]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("group", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups:
        table.add_row(group["name"], *(shared.format_value(group[key]) for key in columns))
    return table
