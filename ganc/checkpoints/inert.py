"""What stands beside tensors in torch files and is no tensor: values without behaviour.

Training loops save their best score as a NumPy number, their options as a dict with attributes,
their folder as a path. Torch's restricted unpickler refuses such globals by name. Those listed here
are given to it as empty objects or as plain dicts: nothing of the named package is imported or
called, and no reader looks at them.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Inert:
    """Stands for an object that nobody reads."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Stands for a dict with more to it: making one makes a plain one.

    It is an OrderedDict: torch's unpickler may fill it and set its state.
    """

    def __new__(cls, *args: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


_OBJECTS = (
    "numpy.dtype", "numpy.ndarray",
    "numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "datetime.datetime", "datetime.date", "datetime.timedelta",
    "types.SimpleNamespace",
    # Factories of defaultdicts.
    "builtins.int", "builtins.float", "builtins.list", "builtins.dict", "builtins.set",
)  # fmt: skip

_DICTS = (
    "collections.defaultdict",
    "easydict.EasyDict", "munch.Munch", "addict.addict.Dict", "yacs.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)  # fmt: skip

STAND_INS: list[tuple[Callable[..., Any], str]] = [
    *((Inert, name) for name in _OBJECTS),
    *((InertDict, name) for name in _DICTS),
]
"""Pairs of what is built and the global that a file names, as ``safe_globals`` takes them."""
