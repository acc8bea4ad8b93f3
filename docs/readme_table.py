"""Render the README's table of what ganc knows from the program's own tables.

``python docs/readme_table.py`` writes it into the README; the tests compare it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ganc.checkpoints.readers import READERS
from ganc.distillation import recipes
from ganc.evaluation.metrics import METRICS
from ganc.exporters import formats
from ganc.exporters.export import FORMATS
from ganc.models.model import ARCHITECTURES
from ganc.scoring import methods
from ganc.scoring.methods import METHODS

PAGE = Path(__file__).parents[1] / "README.md"
HEADING = "## What it knows\n\n"


def render() -> str:
    """Return the table."""
    rows = {
        "models": "; ".join(family.about for family in ARCHITECTURES.values()),
        "reads": "; ".join(["its own safetensors", *(reader.about for reader in READERS.values())]),
        "scores": described(METHODS, methods.ABOUT) + ", any mix of them",
        "recipes": described(recipes.RECIPES, recipes.ABOUT),
        "metrics": ", ".join(f"`{name}`" for name in METRICS),
        "writes": described(FORMATS, formats.ABOUT),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {row} |" for name, row in rows.items())]
    return "\n".join(lines)


def described(names: Iterable[str], about: Mapping[str, str]) -> str:
    """Return names with a phrase each."""
    phrases = {name: about[name].replace("|", "\\|") for name in names}
    return ", ".join(f"`{name}` ({phrase})" for name, phrase in phrases.items())


def replaced(page: str) -> str:
    """Return the README with the table made anew."""
    before, _, rest = page.partition(HEADING)
    _, _, after = rest.partition("\n\n")
    return f"{before}{HEADING}{render()}\n\n{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
