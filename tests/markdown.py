"""What tests read off a Markdown page: its anchors, its links, the ganc commands that it shows."""

import re
import shlex
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Return the pages of a reader: those of the root and of ``docs``."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(text: str, language: str) -> list[str]:
    """Return what stands between the fences of one language."""
    return [block for name, block in _FENCE.findall(text) if name == language]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them.

    Lower case, without punctuation, spaces as hyphens; a heading that is there again is numbered.
    """
    found, seen = set(), Counter[str]()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the files that a page links to, each with its anchor or ""."""
    text = _FENCE.sub("", page.read_text())
    targets = [target for target in _LINK.findall(text) if "://" not in target]
    parted = [target.partition("#")[::2] for target in targets]
    return [((page.parent / path).resolve() if path else page, anchor) for path, anchor in parted]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every ganc command of a page: in a block, or behind ``Example:``.

    Lines of a synopsis (CAPITALS for what is to be filled in) are no commands. A variable of the
    shell is given as "0".
    """
    prose = _FENCE.sub("", text)
    examples = re.findall(r"^Example: `(.*)`$", prose, re.MULTILINE)
    shell = "\n".join([*fenced(text, "sh"), *_INDENTED.findall(prose), *examples])
    lines = re.sub(r"\$\w+", "0", shell.replace("\\\n", " ")).splitlines()
    return [
        words
        for line in lines
        for part in re.split(r"\s\|\|?\s|;|&&", line)
        if (words := _arguments(part))
    ]


def _arguments(command: str) -> list[str]:
    match = re.match(r"\s*(?:\$ |do |torchrun .* -m )?ganc ([a-z]+(?: [^→\s].*)?)$", command)
    if not match or re.search(r" \[?[A-Z]{3,}…?\b(?![:/])", match[1]):
        return []
    words = shlex.split(match[1], comments=True)
    return words[: words.index(">")] if ">" in words else words


def diffs(text: str) -> dict[str, list[str]]:
    """Return file → lines of the diffs of a page: each with its mark " ", "-" or "+"."""
    found: dict[str, list[str]] = {}
    for line in "".join(fenced(text, "diff")).splitlines():
        if line.startswith("--- "):
            lines = found.setdefault(line.removeprefix("--- "), [])
        elif not line.startswith("+++ "):
            lines.append(line)
    return found


def applied(before: str, diff: list[str]) -> str:
    """Return a file with a diff applied.

    New lines come behind the line above them, those at the top before the line below. A line that
    stays may be the beginning of the file's.

    Raises:
        ValueError: A line that stays or goes is not there, in this order.
    """
    lines = before.splitlines()
    first = next(i for i, line in enumerate(diff) if line[0] != "+")
    at = _index(lines, diff[first][1:], 0)
    for mark, line in ((line[0], line[1:]) for line in diff):
        if mark == "+":
            lines.insert(at, line)
            at += 1
        elif mark == "-":
            at = _index(lines, line, at)
            del lines[at]
        else:
            at = _index(lines, line, at) + 1
    return "\n".join(lines) + "\n"


def _index(lines: list[str], start: str, at: int) -> int:
    for i, line in enumerate(lines[at:], start=at):
        if line.startswith(start):
            return i
    raise ValueError(f"no line {start!r} behind line {at}")
