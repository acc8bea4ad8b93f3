"""Costs of layers, kept in the cache: what was measured on this machine is not measured again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ganc import strict_json
from ganc.errors import GancError, InputError, OutputError
from ganc.files import atomic_write, read_whole
from ganc.progress import Warn
from ganc.user_cache import cache_folder, cache_subfolder

FOLDER = "latency"


@dataclass(frozen=True)
class CostFile:
    """A file of the cache.

    Attributes:
        machine: All that costs depend on beside the layer: processor, cores, threads, runtime,
            precision, versions. A file that names another machine is not believed.
        costs: A layer's key → milliseconds.
    """

    machine: dict[str, str | int]
    costs: dict[str, float]


def read_costs(machine: Mapping[str, str | int], warn: Warn) -> dict[str, float]:
    """Return the costs that the cache has of a machine.

    Args:
        warn: Told of a file that is damaged, or of another machine: nothing of it is taken.
    """
    path = cache_folder() / FOLDER / _name(machine)
    if not path.exists():
        return {}
    try:
        found = read_cost_file(path)
        if found.machine != dict(machine):
            raise InputError("it is of another machine")
    except GancError as error:
        warn(f"{path} is not used ({error}); layers are measured again")
        return {}
    return found.costs


def read_cost_file(path: Path) -> CostFile:
    """Read a file.

    Raises:
        InputError: It cannot be read, or is something else.
    """
    found = strict_json.read(read_whole(path, InputError), CostFile, "it", InputError)
    if not all(cost > 0 for cost in found.costs.values()):
        raise InputError("a cost is not positive")
    return found


def write_costs(machine: Mapping[str, str | int], costs: Mapping[str, float], warn: Warn) -> None:
    """Add costs to what the cache has of a machine.

    Args:
        warn: Told of a cache that cannot be written.
    """
    kept = read_costs(machine, lambda message: None) | dict(costs)
    try:
        path = cache_subfolder(FOLDER) / _name(machine)
        with atomic_write(path, force=True) as temporary:
            temporary.write_text(json.dumps(asdict(CostFile(dict(machine), kept))))
    except OutputError as error:
        warn(f"costs of layers are not kept: {error}")


def _name(machine: Mapping[str, str | int]) -> str:
    key = json.dumps(dict(machine), sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:32] + ".json"
