"""Functions of the user's own, ``module:function``: found, called, and taken for masks."""

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ganc.content.request import MaskRequest
from ganc.errors import GancError, InputError, UsageError, unknown_name

OTHER_SOURCES = "; other sources: center, torchvision:CLASS, bisenet, masks:DIR"


class FunctionMasks:
    """What ``function(images)`` returns; a ``MaskSource``.

    Args:
        name: module:function, for errors.
        function: Images [N, C, H, W], float32 on the CPU, clamped to [-1, 1] → bool [N, h, w], a
            tensor or an array.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Any]) -> None:
        self.name, self.function = name, function

    def __call__(self, images: Tensor, indices: range) -> Tensor:
        own = images.detach().float().cpu().clamp(-1, 1)
        masks = call_function(f"--content {self.name}", self.function, own)
        if masks.dtype != torch.bool or masks.ndim != 3 or len(masks) != len(images):
            raise InputError(
                f"--content {self.name} must return bool [{len(images)}, H, W],"
                f" got {str(masks.dtype).removeprefix('torch.')} {list(masks.shape)}"
            )
        return masks


def open_function(module: str, name: str, request: MaskRequest) -> FunctionMasks:
    """Return the masks of a function; see ``find_function``."""
    return FunctionMasks(f"{module}:{name}", find_function(module, name))


def find_function(
    module: str, name: str, *, flag: str = "--content", instead: str = OTHER_SOURCES
) -> Callable[[Tensor], Any]:
    """Import a module and return its function; the current folder's modules are found as well.

    Args:
        flag: Who asks, for errors.
        instead: What a hint offers where the module is not there.
    Raises:
        UsageError: There is no such module or function.
        InputError: The module fails when it is imported.
    """
    loaded = _import(module, f"{flag} {module}:{name}", instead)
    function = getattr(loaded, name, None)
    if not callable(function):
        found = [key for key, value in vars(loaded).items() if callable(value)]
        raise unknown_name(f"function of module {module}", name, found)
    return cast("Callable[[Tensor], Any]", function)


def check_function(
    module: str, name: str, *, flag: str = "--content", instead: str = OTHER_SOURCES
) -> None:
    """Refuse a function that is not there, as far as reading tells; none of the code is run.

    Args:
        module, name, flag, instead: See ``find_function``.
    Raises:
        UsageError: Nothing of the module's name is in the current folder or installed, or nothing
            in its file has the function's name.
    """
    top = module.partition(".")[0]
    with _here():
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):  # a name that nothing can have
            spec = None
    if spec is None:
        raise _missing(f"{flag} {module}:{name}", top, instead)
    if top == module and spec.origin is not None and spec.origin.endswith(".py"):
        names = _names_in(Path(spec.origin))
        if names is not None and name not in names:
            raise unknown_name(f"function of module {module}", name, sorted(names))


def _names_in(path: Path) -> set[str] | None:
    """Return all names in a file's code; None where it may make others as it runs."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # what is wrong with it, importing says
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    is_open = "*" in names or "__getattr__" in names or "globals" in names
    return None if is_open else names


def call_function(what: str, function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return what a user's function makes of images, a tensor or an array, as a tensor.

    Args:
        what: The flag and the function, for errors.
    Raises:
        InputError: It fails, or returns something else.
    """
    try:
        return torch.as_tensor(function(images))
    except GancError:
        raise
    except Exception as error:  # the function is anybody's
        raise InputError(
            f"{what} raised {type(error).__name__}: {_one_line(error)}",
            "--debug shows the traceback",
        ) from error


def _import(module: str, what: str, instead: str) -> Any:
    try:
        with _here():
            return importlib.import_module(module)
    except Exception as error:  # importing runs the module's code
        if isinstance(error, ModuleNotFoundError) and error.name in _parents(module):
            raise _missing(what, error.name, instead) from error
        raise InputError(
            f"{what}: importing {module} raised {type(error).__name__}: {_one_line(error)}",
            "--debug shows the traceback",
        ) from error


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """Let the current folder's modules be found."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the folder may be younger than what was last seen of it
    try:
        yield
    finally:
        sys.path.remove(here)


def _missing(what: str, module: str | None, instead: str) -> UsageError:
    return UsageError(
        f"{what}: no module {module}",
        f"it is looked for in the current folder and among the installed packages{instead}",
    )


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
