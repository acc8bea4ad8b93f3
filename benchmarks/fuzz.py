"""Damaged files by the hundred thousand: is each of them read, or refused in one line?

Every format that ganc writes and reads again, and its checkpoints: first the whole typed space of a
sound file (each part missing, or of another type, or huge), then random cases with two or three
parts changed, and files with flipped, cut and repeated bytes. What a reader raises has to be an
error for the user; what it takes in time and memory is watched.

    python benchmarks/fuzz.py                     # 100 000 cases, about ten minutes
    python benchmarks/fuzz.py --cases 2000 --seed 1
"""

import argparse
import itertools
import json
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for what the tests share

import ganc
from ganc.checkpoints.describe import info
from ganc.errors import EXIT_INPUT, EXIT_USAGE, GancError
from tests.checkpoints.test_header import File
from tests.formats import Format, formats
from tests.typed_space import OTHER_TYPES, TEXTS

MOST_SEC = 2.0
MOST_BYTES = 200 * 2**20


@dataclass
class Counts:
    """What became of the cases of a format."""

    ends: Counter[str] = field(default_factory=Counter)
    slowest_sec: float = 0.0
    faults: list[str] = field(default_factory=list)


def mutate(value: Any, chance: random.Random) -> Any:
    """Change one part of a JSON value: leave it out, or put something else there."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.2:
        return chance.choice([*OTHER_TYPES, *TEXTS])
    if isinstance(value, list):
        place = chance.randrange(len(value))
        return [*value[:place], mutate(value[place], chance), *value[place + 1 :]]
    key = chance.choice(list(value))
    if chance.random() < 0.2:
        return {name: part for name, part in value.items() if name != key}
    return value | {key: mutate(value[key], chance)}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file with a few of its bytes flipped, cut off, or repeated."""
    kind, data = chance.randrange(3), bytearray(content)
    if not data:
        return content
    place = chance.randrange(len(data))
    if kind == 0:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(data)
    return bytes(data[:place]) if kind == 1 else bytes(data[:place] * 2 + data[place:])


def random_cases(own: Format, chance: random.Random) -> Iterator[Any]:
    """Yield documents with two or three parts changed, without end."""
    while True:
        document = own.document
        for _ in range(chance.randint(2, 3)):
            document = mutate(document, chance)
        if isinstance(document, dict):
            for key in own.inner:
                if chance.random() < 0.5 and isinstance(document.get(key), str):
                    inner = mutate(json.loads(own.document[key]), chance)
                    document = document | {key: json.dumps(inner)}
        yield document


def checkpoint(folder: Path) -> Format:
    """Return the format of checkpoints; every header is signed anew."""
    file = File(folder / "sound.safetensors")

    def write(document: Any, path: Path) -> None:
        entries = document if isinstance(document, dict) else {"config": json.dumps(document)}
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in entries.items()}
        text = file.signed(texts)
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + file.body)

    def read(path: Path) -> object:
        return info(path), ganc.load(path)

    inner = ("config", "provenance", "networks")
    return Format("model.safetensors", file.entries, inner, write, read)


def attempt(read: Callable[[], object], counts: Counts, shown: Callable[[], str]) -> None:
    """Read a file, and note what became of it."""
    began, before = time.perf_counter(), peak_bytes()
    try:
        read()
        end = "read"
    except GancError as error:
        is_fine = error.exit_code in (EXIT_USAGE, EXIT_INPUT) and "\n" not in str(error)
        end = "refused" if is_fine else "fault"
        if not is_fine:
            counts.faults.append(f"{shown()}: exit {error.exit_code}, {error}")
    except Exception:
        end = "fault"
        counts.faults.append(f"{shown()}: {traceback.format_exc(limit=-3)}")
    spent, grown = time.perf_counter() - began, peak_bytes() - before
    if spent > MOST_SEC or grown > MOST_BYTES:
        end = "fault"
        counts.faults.append(f"{shown()}: {spent:.1f} s, {grown / 2**20:.0f} MiB")
    counts.slowest_sec = max(counts.slowest_sec, spent)
    counts.ends[end] += 1


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(own: Format, folder: Path, cases: int, chance: random.Random) -> Counts:
    """Try so many cases of a format: the typed space, random documents, damaged bytes."""
    counts, path = Counts(), folder / own.name
    own.write(own.document, path)
    bytes_path = own.path or path
    sound = bytes_path.read_bytes()
    typed = list(own.cases())
    chance.shuffle(typed)
    documents = itertools.chain(typed, random_cases(own, chance))
    for document in itertools.islice(documents, cases * 3 // 4):
        own.write(document, path)
        attempt(lambda: own.read(path), counts, lambda: json.dumps(document)[:300])  # noqa: B023
    for _ in range(cases - cases * 3 // 4):
        content = damaged(sound, chance)
        bytes_path.write_bytes(content)
        attempt(lambda: own.read(path), counts, lambda: repr(content[:300]))  # noqa: B023
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", help="some of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = [checkpoint(folder), *formats(folder)]
        chosen = [own for own in known if not given.formats or own.name in given.formats]
        print("| file | cases | read | refused | faults | slowest |\n|---|---|---|---|---|---|")
        faults: list[str] = []
        for own in chosen:
            chance = random.Random(f"{given.seed} {own.name}")
            counts = run(own, folder, given.cases // len(chosen), chance)
            ends = counts.ends
            print(f"| {own.name} | {ends.total()} | {ends['read']} | {ends['refused']}"
                  f" | {ends['fault']} | {counts.slowest_sec:.2f} s |", flush=True)  # fmt: skip
            faults += [f"{own.name}: {fault}" for fault in counts.faults]
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
