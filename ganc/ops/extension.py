"""The compiled operators: built when first needed, kept, and never in the way.

``csrc/`` becomes two libraries: the operators' names with their CPU side, and their CUDA side. Each
is compiled once per version of torch, toolkit and kind of GPU, into the cache. Whatever stands in
the way (no compiler, another CUDA, no GPU) is said in one line on stderr, once; plain torch then
does the work.

The sources include c10's and ATen's headers alone, so that a bare toolkit suffices.
``torch.utils.cpp_extension`` is not used: it brings headers that a bare toolkit lacks, and waits
for ever on the lock of a process that died.
"""

import functools
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import filelock
import torch

from ganc.errors import GancError
from ganc.user_cache import cache_folder, cache_subfolder

SOURCES = Path(__file__).parent / "csrc"
CPU, CUDA = "cpu", "cuda"
FOLDER = "extensions"  # in the cache
OFF = "GANC_EXTENSION=off"

BUILD_SEC = 600.0
"""For another process that builds the same; a lock of a dead one is free at once."""

_log = logging.getLogger("ganc")


class BuildError(GancError):
    """A library cannot be built or loaded here."""


@functools.cache
def build_or_warn(device_type: str) -> bool:
    """Build and load the operators for a kind of device; say whether they work there.

    ``GANC_EXTENSION=off`` keeps them out. Any other reason is logged as a warning, once.
    """
    reason = build_obstacle(device_type)
    if reason not in (None, OFF):
        _log.warning("warning: no compiled operators, plain torch instead: %s", reason)
    return reason is None


def state(device_type: str) -> str:
    """Say in one line what computes on a kind of device, and why; builds what CUDA misses."""
    reason = build_obstacle(device_type) if device_type == CUDA else cpu_obstacle()
    return "compiled operators" if reason is None else f"plain torch; {reason}"


def build_obstacle(device_type: str) -> str | None:
    """Build and load the operators; return what stands in the way and what helps, or None."""
    if is_off():
        return OFF
    try:
        build_and_load(device_type)
    except (GancError, OSError, filelock.Timeout) as error:
        return _told(error)
    return None


@functools.cache
def cpu_obstacle() -> str | None:
    """Load the CPU's operators if they were built; return what stands in the way, or None.

    Nobody who runs on the CPU waits for a compiler unasked: ``build_for_cpu`` is to be called.
    """
    if is_off():
        return OFF
    try:
        if not library_path(CPU, ()).exists():
            return "`ganc doctor --build` compiles faster operators"
        _load_library(CPU)
    except (GancError, OSError) as error:
        return _told(error)
    return None


def build_for_cpu() -> Path:
    """Build and load the CPU's operators, which are used from then on; return the library.

    Raises:
        BuildError: Something stands in the way.
    """
    reason = build_obstacle(CPU)
    if reason is not None:
        way_out = "unset GANC_EXTENSION" if is_off() else "name g++ or clang++ in CXX"
        hint = f"{way_out}; until then plain torch computes the same"
        raise BuildError(f"no operators for the CPU: {reason}", hint)
    cpu_obstacle.cache_clear()
    return library_path(CPU, ())


def _told(error: Exception) -> str:
    hint = error.hint if isinstance(error, GancError) else None
    return f"{error} ({hint})" if hint else str(error)


def is_off() -> bool:
    """Say whether the user wants plain torch alone."""
    return os.environ.get("GANC_EXTENSION", "") == "off"


def build_and_load(device_type: str) -> None:
    """Build what is not in the cache, and load it.

    Raises:
        BuildError: There is no compiler, it fits another CUDA, or it failed.
        filelock.Timeout: Another process has been building for too long.
        OutputError: The cache cannot be written.
    """
    _load_library(CPU)
    if device_type == CUDA:
        _load_library(CUDA)


@functools.cache
def _load_library(kind: str) -> None:
    path = built_library(kind, _architectures() if kind == CUDA else ())
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise BuildError(
            f"{path} cannot be loaded: {error.__cause__ or error}", "delete it, it is built again"
        ) from error


def built_library(kind: str, architectures: Sequence[str]) -> Path:
    """Return a library in the cache, built if it is not there.

    Args:
        kind: ``CPU`` or ``CUDA``.
        architectures: Of GPUs, as in ``sm_90`` without its ``sm_``.
    Raises:
        BuildError, filelock.Timeout, OutputError: See ``build_and_load``.
    """
    command, path = compiler_command(kind, architectures), library_path(kind, architectures)
    cache_subfolder(FOLDER)
    if not path.exists():
        # The system frees this lock when its holder dies, so no stale one is ever waited for.
        with filelock.FileLock(f"{path}.lock", timeout=BUILD_SEC):
            if not path.exists():
                _compile(command, path)
    return path


def library_path(kind: str, architectures: Sequence[str]) -> Path:
    """Return where a library is, or would be; raises as ``compiler_command`` does."""
    return cache_folder() / FOLDER / f"{kind}-{_key(compiler_command(kind, architectures))}.so"


def compiler_command(kind: str, architectures: Sequence[str]) -> list[str]:
    """Return the compiler's command line, without ``-o``.

    Raises:
        BuildError: The compiler is missing, or of another CUDA than torch's.
    """
    root = Path(torch.__file__).parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    common = ["-O3", "-std=c++20", "-shared", abi, f"-I{root / 'include'}",
              f"-I{root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]  # fmt: skip
    libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]  # after what needs them
    if kind == CPU:
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            raise BuildError("there is no C++ compiler", "install g++, or set CXX")
        # No fused multiply-add: float32 gives the bits of plain torch.
        flags = ["-fPIC", "-fopenmp", "-march=native", "-ffp-contract=off"]
        return [compiler, *flags, *common, *_sources(".cpp"), *libraries]
    kinds = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in architectures]
    flags = ["-Xcompiler=-fPIC", "--threads=0"]  # sources are compiled side by side
    return [_nvcc(), *flags, *kinds, *common, *_sources(".cu"), *libraries, "-lc10_cuda"]


def _sources(ending: str) -> list[str]:
    return sorted(str(path) for path in SOURCES.iterdir() if path.suffix == ending)


def _nvcc() -> str:
    """Return the toolkit's compiler, of the CUDA that torch was built with."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc")
    if torch.version.cuda is None:
        raise BuildError("torch was built without CUDA", "install a CUDA build of torch")
    if nvcc is None or not Path(nvcc).exists():
        raise BuildError("there is no nvcc", "install the CUDA toolkit, or set CUDA_HOME")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.", said)
    needed = torch.version.cuda.partition(".")[0]
    if found is None or found[1] != needed:
        other = "none" if found is None else found[1]
        raise BuildError(
            f"{nvcc} is of CUDA {other}, torch of CUDA {needed}", "set CUDA_HOME to a matching one"
        )
    return nvcc


def _architectures() -> list[str]:
    """Return those of the GPUs that are here, as in ["90"]."""
    capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    found = sorted({f"{major}{minor}" for major, minor in capabilities})
    if not found:
        raise BuildError("there is no CUDA device", "use --device cpu")
    return found


def _key(command: Sequence[str]) -> str:
    """Return what a library depends on, hashed: sources, flags, versions, this processor."""
    digest = hashlib.sha256("\0".join([*command, torch.__version__, _processor()]).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """Return the flags of the processor where the system tells: -march=native depends on them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(command: Sequence[str], path: Path) -> None:
    """Compile beside the target, then rename: nobody meets half a library."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        done = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise BuildError(f"{command[0]} failed: {said[0]}", "see `ganc doctor`")
        made.replace(path)
