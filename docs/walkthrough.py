"""Run the shell blocks of ``docs/walkthrough.md`` and write down what they said, and how long.

    python docs/walkthrough.py FOLDER

FOLDER has the files that the page begins with. Every ``sh`` block runs there, in order, in one
shell each; the ``text`` block and the time behind it are replaced, and the page's images are taken
from there. Nothing else of the page changes. A block that fails ends the run, with the page as it
was. Left out is the table of settings that ends an evaluation.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parent / "walkthrough.md"
_STEP = re.compile(r"```sh\n(.*?)```\n(?:\n```text\n.*?```\n)?(?:\n\*[\d ]+ s\*\n)?", re.DOTALL)
_SETTINGS = re.compile(r"^settings *\n┌.*?^└.*?\n", re.DOTALL | re.MULTILINE)


def recorded(page: str, folder: Path) -> str:
    """Return the page with the output of every block behind it.

    Raises:
        subprocess.CalledProcessError: A block failed.
    """

    def run(match: re.Match[str]) -> str:
        start = time.perf_counter()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", match[1]], cwd=folder, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        print(match[1], done.stdout, sep="\n", flush=True)
        done.check_returncode()
        shown = _SETTINGS.sub("", done.stdout)
        said = "\n".join(line.rstrip() for line in shown.splitlines())
        seconds = f"\n*{time.perf_counter() - start:.0f} s*\n"
        return f"```sh\n{match[1]}```\n" + (f"\n```text\n{said}\n```\n" if said else "") + seconds

    return _STEP.sub(run, page)


def main() -> None:
    folder = Path(sys.argv[1])
    page = recorded(PAGE.read_text(), folder)
    for name in re.findall(r"\(walkthrough-(.+\.png)\)", page):
        shutil.copyfile(folder / name, PAGE.with_name(f"walkthrough-{name}"))
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
