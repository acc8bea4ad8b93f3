"""What tools wrap around a network's tensors, taken off: readers see plain names.

Projects save the same tensors in many ways: alone, or beside an optimiser at any key and depth;
from data-parallel, compiled or averaged modules, which put prefixes before the names; several
networks in one state dict, as Lightning does. ``find`` walks whatever a file holds and returns each
network's tensors apart, with the names that its own code gave them.
"""

import re
from collections import ChainMap, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.pickle_machine import Inert, Record
from ganc.checkpoints.refusals import printable
from ganc.errors import CheckpointError, nearest

State = Mapping[str, Tensor]
"""Name → tensor."""

ROOT = "."
"""How messages call the file itself, where a key is asked for."""

_DEEPEST = 8
_MOST_CONTAINERS = 10_000
_LONGEST_LIST = 10_000
_CONTAINERS = (dict, list, tuple, Inert, Record)
_LONGEST_NAME = 500

# Modules that only wrap another one; their names may stand anywhere.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
    r"|_forward_module)\."
)

# Single numbers that profilers and averages keep; the group: those that averages alone have.
# Names without a dot belong to no module, see ``_loose``.
_BYSTANDERS = re.compile(
    r"(?:.*\.)?(?:(?P<average>n_averaged|num_updates|initted)|total_ops|total_params)"
)

# Torch's newer spelling of spectral norm, by the older names.
_PARAMETRIZED = {
    "original": "weight_orig", "0._u": "weight_u", "0._v": "weight_v",
}  # fmt: skip
_PARAMETRIZATION = re.compile(r"(.*\.|)parametrizations\.weight\.(original|0\._u|0\._v)")

_AVERAGES = {"ema", "avg", "average", "averaged", "shadow", "swa", "gs"}
_NETWORKS = {"g", "gen", "generator", "d", "dis", "disc", "discriminator", "critic"}
_RAW = {"online"}
_FILLERS = {"net", "model", "state", "dict", "params", "weights", "a", "b", "ab", "ba", "a2b",
            "b2a", "moving", "exponential", "best", "last", "latest", "final"}  # fmt: skip
_DEEPEST_WORD = 3

# Letters of a direction: the last part of netG_A, G_AB, genA2B.
_DIRECTION = re.compile(r"(?:_|(?<=[a-z])|(?<=[GD]))(A2B|B2A|AB|BA|A|B)(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Found:
    """One network's tensors, or NVIDIA's record of it.

    Attributes:
        key: The way to it: the file's own keys and the prefix of its names, with dots between
            ("state_dict.decoder"); "" for the file itself.
        content: Tensors under plain names; or a pickled network.
        is_average: Whether it holds averaged weights, by its key or by an average's counter.
        beside: What else stood beside it or above ("latent_avg", "config"), the nearest first.
        dropped: Names of single numbers that were ignored.
        filled: Names of the counters of batch norm that were missing; nothing reads them.
        completed_from: Of an average that holds parameters alone, the key of the raw copy that its
            buffers come from.
    """

    key: str
    content: State | Record
    is_average: bool = False
    beside: ChainMap[str, Any] = field(default_factory=ChainMap, repr=False)
    dropped: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    completed_from: str | None = None

    @property
    def state(self) -> State:
        """The tensors; empty where the content is a record."""
        return {} if isinstance(self.content, Record) else self.content


def find(tree: Any) -> list[Found]:
    """Return every state dict and pickled network that a file holds, in its order.

    Args:
        tree: What was unpickled: plain containers, tensors and records, of any shape.
    Raises:
        CheckpointError: Two tensors have one name once their wrappers are gone.
    """
    return _completed([part for found in _walk(tree) for part in _networks(found)])


def pick(found: Sequence[Found], keys: Sequence[str]) -> list[Found]:
    """Return what lies at some keys, or where nothing does, below them.

    Args:
        found: All that there is.
        keys: As messages name them; ``ROOT`` is what belongs to no key.
    Raises:
        CheckpointError: Nothing lies at one of them.
    """
    picked = []
    for key in keys:
        here = [f for f in found if (f.key or ROOT) == key]
        here = here or [f for f in found if f.key.startswith(f"{key}.")]
        here = here or [part for f in found for part in _below(f, key)]
        if not here:
            near = nearest(key, _nameable(found))
            known = [one.key for one in found if one.key]
            raise CheckpointError(
                f"there is nothing at the key `{printable(key)}`; there is {_listed(known)}",
                f"did you mean `{near}`?" if near else None,
            )
        picked += here
    return picked


def parts(found: Found) -> list[Found]:
    """Return a state dict's parts by the first component of their names, where it has several.

    A single component that all names share is a part too.
    """
    firsts = dict.fromkeys(name.split(".", 1)[0] for name in found.state if "." in name)
    return [part for first in firsts for part in _networks(_under(found, first))]


def direction(key: str) -> str | None:
    """Return which of a CycleGAN's two directions a key speaks of: "A", "AB", …, or None."""
    marks = _DIRECTION.findall(key)
    return marks[-1].replace("2", "") if marks else None


def _walk(tree: Any) -> Iterator[Found]:
    """Yield every mapping that holds tensors, and every record; a shared one at its first key."""
    waiting: deque[tuple[tuple[str, ...], Any, ChainMap[str, Any]]] = deque(
        [((), tree, ChainMap())]
    )
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_CONTAINERS:
        path, value, above = waiting.popleft()
        if id(value) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(value))
        if isinstance(value, Record):
            yield Found(_joined(path), value, _is_average(path), above)
            continue
        entries = _entries(value)
        if _is_optimizer(entries):
            continue
        inner = {k: v for k, v in entries.items() if isinstance(v, _CONTAINERS)}
        beside = above.new_child({k: v for k, v in entries.items() if k not in inner})
        tensors = {k: v for k, v in entries.items() if isinstance(v, Tensor)}
        if tensors:
            yield Found(_joined(path), tensors, _is_average(path), beside)
        waiting += [((*path, key), v, beside) for key, v in inner.items()]


def _entries(value: Any) -> dict[str, Any]:
    """Return a container's parts by name; {} of what is none."""
    if isinstance(value, Inert):
        return _entries(value.state) if isinstance(value.state, dict) else {}
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(k)[:20]: v for k, v in value.items()}
    if isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
        return {str(index): part for index, part in enumerate(value)}
    return {}


def _is_optimizer(entries: Mapping[str, Any]) -> bool:
    return {"state", "param_groups"} <= entries.keys()


def _completed(found: Sequence[Found]) -> list[Found]:
    """Give averages of the parameters alone the buffers of the raw copy that stands beside them."""
    raw = [one for one in found if not one.is_average]
    return [_with_buffers(one, raw) if one.is_average and one.state else one for one in found]


def _with_buffers(average: Found, raw: Sequence[Found]) -> Found:
    shapes = {name: tensor.shape for name, tensor in average.state.items()}
    for one in raw:
        missing = one.state.keys() - shapes.keys()
        is_same = shapes.keys() <= one.state.keys() and all(
            one.state[name].shape == shape for name, shape in shapes.items()
        )
        is_copy = is_same and len(missing) < len(shapes) and is_counterpart(average.key, one.key)
        if is_copy and missing:
            merged = {name: average.state.get(name, t) for name, t in one.state.items()}
            return replace(average, content=merged, completed_from=one.key)
    return average


def is_counterpart(average: str, raw: str) -> bool:
    """Whether the keys of an average and of a raw copy may speak of one network of a CycleGAN."""
    directions = {direction(average), direction(raw)} - {None}
    return len(directions) < 2


def _joined(path: Sequence[str]) -> str:
    return ".".join(path)


def _networks(found: Found) -> list[Found]:
    """Take off what wraps a state dict, and part the networks that its names tell apart."""
    if isinstance(found.content, Record):
        return [found]
    is_average = found.is_average
    found = _unwrapped(found)
    groups: dict[str, None] = dict.fromkeys(
        prefix for name in found.state if (prefix := _network_prefix(name))
    )
    if not groups:
        return [found] if found.state else []
    # A counter of averages speaks of one network; of several, their names do.
    found = replace(found, is_average=is_average)
    named = [part for prefix in groups for part in _networks(_under(found, prefix))]
    rest = _only(found, lambda name: name if _network_prefix(name) is None else None)
    return named + ([rest] if rest.state else [])


def _unwrapped(found: Found) -> Found:
    """Drop wrappers' prefixes and bystanders; spell spectral norm one way; fill in counters."""
    state = _renamed(found.state, lambda name: _plain_spectral(_WRAPPERS.sub("", name)))
    loose, is_average = _loose(state), found.is_average
    for name in list(state):
        match = _BYSTANDERS.fullmatch(name)
        if match and state[name].numel() == 1:
            is_average = is_average or match["average"] is not None
            loose[name] = state[name]
    kept = {name: tensor for name, tensor in state.items() if name not in loose}
    state, filled = _with_counters(kept)
    return replace(
        found,
        content=state,
        is_average=is_average,
        beside=ChainMap(loose, found.beside),
        dropped=(*found.dropped, *(name for name, tensor in loose.items() if tensor.numel() == 1)),
        filled=(*found.filled, *filled),
    )


def _loose(state: State) -> dict[str, Tensor]:
    """Return what belongs to no module, where others do: counters, means (``latent_avg``)."""
    if not any("." in name for name in state):
        return {}
    return {name: tensor for name, tensor in state.items() if "." not in name}


def _with_counters(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """Add the ``num_batches_tracked`` that batch norm did not store until 2018.

    Returns:
        The tensors, each counter where sorting by name would put it; and the counters' names.
    """
    complete: dict[str, Tensor] = {}
    filled = []
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        counter = f"{module}.num_batches_tracked"
        # Without a weight it is an instance norm of that time, which stored what it never used.
        if part == "running_mean" and f"{module}.weight" in state and counter not in state:
            complete[counter] = torch.tensor(0)
            filled.append(counter)
        complete[name] = tensor
    return complete, filled


def _renamed(state: State, rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = rename(name) if len(name) <= _LONGEST_NAME else name
        if plain in renamed:
            raise CheckpointError(f"{printable(name)} and another tensor are both {plain}")
        renamed[plain] = tensor
    return renamed


def _plain_spectral(name: str) -> str:
    match = _PARAMETRIZATION.fullmatch(name)
    return f"{match[1]}{_PARAMETRIZED[match[2]]}" if match else name


def _network_prefix(name: str) -> str | None:
    """Return the beginning of a tensor's name that says which network it is of, if one does."""
    components = name.split(".")
    for depth, component in enumerate(components[:_DEEPEST_WORD]):
        is_single = component in ("g", "d") and depth > 0  # attention layers call theirs so
        if len(components) > depth + 1 and not is_single and _names_network(component):
            return ".".join(components[: depth + 1])
    return None


def _names_network(component: str) -> bool:
    words = _words(component)
    meant = words & (_NETWORKS | _AVERAGES | _RAW)
    return bool(meant) and words <= _NETWORKS | _AVERAGES | _RAW | _FILLERS


def _words(component: str) -> set[str]:
    """Split netG_A2B and generatorEma into lower-case words."""
    found = re.findall(r"[ABab]2[ABab]|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W_]", component[:50])
    return {word.lower() for word in found}


def _is_average(path: Sequence[str]) -> bool:
    return any(_names_average(component) for component in path)


def _names_average(component: str) -> bool:
    """Whether a key speaks of averages and of nothing else: not g_before_ema, not avg_pool."""
    words = {word for word in _words(component) if not word.isdecimal()}
    return bool(words & _AVERAGES) and words <= _AVERAGES | _NETWORKS | _FILLERS


def _under(found: Found, prefix: str) -> Found:
    """Return the tensors whose names begin with a prefix, without it."""
    start, path = f"{prefix}.", prefix.split(".")
    part = _only(found, lambda n: n.removeprefix(start) if n.startswith(start) else None)
    is_raw = any(_words(component) & _RAW for component in path)
    return replace(
        part,
        key=f"{found.key}.{prefix}" if found.key else prefix,
        is_average=(found.is_average or _is_average(path)) and not is_raw,
    )


def _only(found: Found, rename: Callable[[str], str | None]) -> Found:
    """Return the part of a state dict whose names ``rename`` keeps, under the names it gives."""
    named = ((rename(name), tensor) for name, tensor in found.state.items())
    return replace(
        found,
        content={name: tensor for name, tensor in named if name is not None},
        dropped=tuple(name for name in map(rename, found.dropped) if name is not None),
        filled=tuple(name for name in map(rename, found.filled) if name is not None),
    )


def _below(found: Found, key: str) -> list[Found]:
    """Return the part of a state dict at a key that goes on into its names."""
    start = f"{found.key}." if found.key else ""
    if not key.startswith(start):
        return []
    part = _under(found, key.removeprefix(start))
    return _networks(part) if part.state else []


def _nameable(found: Sequence[Found]) -> Iterator[str]:
    """Yield the keys that could be asked for."""
    for one in found:
        if one.key:
            yield one.key
        for first in dict.fromkeys(name.split(".", 1)[0] for name in one.state if "." in name):
            yield f"{one.key}.{first}" if one.key else first


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:8])
    return (shown or "none") + (f" and {len(names) - 8} more" if len(names) > 8 else "")
