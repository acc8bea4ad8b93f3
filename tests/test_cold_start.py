"""``ganc --help`` and ``ganc info`` answer without loading torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import json, sys
from ganc.cli import run
code = run(sys.argv[1:])
heavy = {"torch", "torchvision", "numpy", "safetensors", "lpips", "cleanfid", "PIL"}
print(json.dumps([code, sorted(heavy & set(sys.modules))]), file=sys.stderr)
"""


def probe(*arguments: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True
    )
    code, heavy = json.loads(done.stderr.splitlines()[-1])
    return code, heavy, done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["score", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code, heavy, out = probe(*arguments)
    assert (code, heavy) == (0, [])
    assert "ganc" in out


def test_info_loads_no_torch(checkpoint: Path) -> None:
    code, heavy, out = probe("info", str(checkpoint), "--json")
    assert (code, heavy) == (0, [])
    assert json.loads(out)["architecture"] == "stylegan2"


def test_import_is_lazy() -> None:
    text = (
        "import sys, ganc; a = 'torch' in sys.modules; ganc.load; print(a, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True"


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ganc", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ganc ")
