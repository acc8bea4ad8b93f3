"""Tables and verdicts from the results of ``density.py``, as markdown.

    python benchmarks/density_table.py out/results.jsonl > table.md

A cell is the median over the seeds and, in brackets, the least and the most; of ``random`` first
the median over its draws is taken for each seed. Verdicts hold where they hold for that many seeds.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = dict[str, dict[int, dict[str, float]]]
"""Arm → seed → number by name."""

RESULTS = {
    "before l1_teacher": "L1 to teacher", "before radius": "radius", "before overlap": "overlap",
    "before shift": "shift", "before fd": "fd", "after l1_truth": "tuned: L1 to truth",
    "after fd": "tuned: fd", "area": "tuned: area",
}  # fmt: skip
SEARCH = {
    "macs": "MACs left", "discriminator_macs": "of D", "search rho": "drawn / target",
    "search rho_d": "of D", "search gap_late": "logit gap", "search gap_zero": "gap at 0",
    "search gap_full": "D sure",
}  # fmt: skip
ARMS = ("density", "random", "l1-in", "global", "shuffled", "few-centers", "game-only",
        "anchor-only", "no-feedback", "generator-only", "scratch")  # fmt: skip
LOCAL = ("radius", "overlap", "shift")
HIGHER = ("before overlap",)


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Return all numbers of a result under flat names."""
    found = {"macs": result["macs"], "discriminator_macs": result["discriminator_macs"]}
    for part in ("before", "after", "search"):
        found |= {f"{part} {name}": value for name, value in (result[part] or {}).items()}
    return found | ({"area": statistics.fmean(result["curve"])} if result["curve"] else {})


def rows_of(results: Iterable[Mapping[str, Any]]) -> Rows:
    """Return the results of one task and ratio by arm; the draws of ``random`` become one."""
    drawn: dict[str, dict[int, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        arm = "random" if result["arm"].startswith("random") else result["arm"]
        drawn[arm][result["seed"]].append(numbers(result))
    return {
        arm: {seed: _medians(found) for seed, found in sorted(seeds.items())}
        for arm, seeds in sorted(drawn.items(), key=lambda item: ARMS.index(item[0]))
    }


def _medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in found for name in one)
    return {name: statistics.median(one[name] for one in found if name in one) for name in names}


def cell(rows: Rows, arm: str, name: str) -> str:
    values = [own[name] for own in rows[arm].values() if name in own]
    if not values:
        return "–"
    low, middle, high = (f"{f(values):.3g}" for f in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(rows: Rows, columns: Mapping[str, str]) -> list[str]:
    """Return a markdown table: flat name → heading."""
    shown = [arm for arm in rows if any(name in own for own in rows[arm].values()
                                        for name in columns)]  # fmt: skip
    return [
        f"| arm | {' | '.join(columns.values())} |",
        "|---|" + "---|" * len(columns),
        *(f"| {arm} | {' | '.join(cell(rows, arm, name) for name in columns)} |" for arm in shown),
    ]


def wins(rows: Rows, name: str, other: str, factor: float = 1.0) -> tuple[int, int]:
    """Return for how many seeds, of how many, density is better than another arm in a number."""
    own, theirs = rows.get("density", {}), rows.get(other, {})
    seeds = [s for s in own if s in theirs and name in own[s] and name in theirs[s]]
    sign = -1 if name in HIGHER else 1
    return sum(
        sign * own[s][name] < sign * factor * theirs[s][name] for s in seeds
    ), len(seeds)  # fmt: skip


def verdicts(rows: Rows, ratio: float) -> list[str]:
    """Return the acceptance list of a task and ratio, a line each."""
    must = ["before l1_teacher", "before radius", "before shift"]
    local = [f"before {name}" for name in LOCAL]
    asked: list[tuple[str, str, list[str], Callable[[int, int], bool], float]] = [
        ("must beat random before fine-tuning", "random", must, lambda a, n: a == n, 1),
        ("should be no worse than l1-in before", "l1-in", must[:1], lambda a, n: 3 * a >= 2 * n, 1),
        ("should beat the global game before", "global", local, lambda a, n: 2 * a > n, 1),
        ("should beat shuffled neighbours before", "shuffled", local, lambda a, n: 2 * a > n, 1),
    ]
    if ratio >= 8:
        asked.append(
            ("should end 5 % closer to the truth than random", "random", ["after l1_truth"],
             lambda a, n: 2 * a > n, 0.95)
        )  # fmt: skip
    lines = []
    for text, other, names, passes, factor in asked:
        counts = {name: wins(rows, name, other, factor) for name in names}
        if not all(n for _, n in counts.values()):
            lines.append(f"- {text}: **not run**")
            continue
        verdict = "yes" if all(passes(a, n) for a, n in counts.values()) else "no"
        shown = ", ".join(f"{name.split()[1]} {a} of {n}" for name, (a, n) in counts.items())
        lines.append(f"- {text}: **{verdict}** ({shown} seeds)")
    return lines + _budget_verdict(rows)


def _budget_verdict(rows: Rows) -> list[str]:
    rho = [own["search rho"] for own in rows.get("density", {}).values()]
    if not rho:
        return []
    verdict = "yes" if all(abs(r - 1) <= 0.02 for r in rho) else "no"
    shown = ", ".join(f"{r:.3f}" for r in rho)
    return [
        f"- must be within 2 % of the MACs asked for before the repair: **{verdict}** ({shown})"
    ]


def report(results: Sequence[Mapping[str, Any]], *, show_searches: bool) -> str:
    lines = []
    keys = sorted({(r["task"], r["ratio"]) for r in results})
    for task, ratio in keys:
        rows = rows_of(r for r in results if (r["task"], r["ratio"]) == (task, ratio))
        lines += [f"### {task}, {ratio:g}x", "", *table(rows, RESULTS), ""]
        if show_searches:
            lines += [*table(rows, SEARCH), ""]
        lines += [*verdicts(rows, ratio), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="results.jsonl of some folders")
    parser.add_argument("--searches", action="store_true", help="how the searches went, as well")
    arguments = parser.parse_args()
    lines = [line for path in arguments.results for line in path.read_text().splitlines()]
    results = [json.loads(line) for line in lines]
    print(report(results, show_searches=arguments.searches))


if __name__ == "__main__":
    main()
