"""Draw the figures of ``docs/scoring`` by the very commands that stand under them.

``python docs/scoring_figures.py`` draws all of them, ``python docs/scoring_figures.py asv.md`` the
named pages'; it needs the extra ``ganc[plot]``. The tests compare pages, commands and files.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = DOCS / "scoring"
FIGURE = re.compile(r"^!\[(?P<alt>[^\]]*)\]\((?P<file>[^)]+)\)\n\n {4}ganc (?P<command>.*)$", re.M)


def figure(page: Path) -> tuple[Path, list[str]]:
    """Return a page's figure and the arguments of ``ganc`` that draw it, in the clone's root.

    Raises:
        ValueError: The page has not exactly one figure with a command below it.
    """
    found = list(FIGURE.finditer(page.read_text()))
    if len(found) != 1:
        raise ValueError(f"{page.name} has {len(found)} figures with a command below, not 1")
    return page.parent / found[0]["file"], shlex.split(found[0]["command"])


def draw(arguments: list[str]) -> None:
    """Run a command; its figure replaces the old one, its scores are thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        scores = ["-o", str(Path(folder) / "scores.safetensors"), "--device", "cpu", "--force"]
        command = [sys.executable, "-m", "ganc", *arguments, *scores]
        subprocess.run(command, cwd=DOCS.parent, check=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.name for path in PAGES.glob("*.md")):
        draw(figure(PAGES / name)[1])
