"""The stages that measure on a GPU: what they name is there."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("on_gpu", FOLDER / "on_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "on_gpu", module)
    spec.loader.exec_module(module)
    return module


def test_every_job_is_in_a_stage_and_every_script_is_there(stages: Any) -> None:
    named = {name for waves in stages.STAGES.values() for wave in waves for name in wave}
    assert named == set(stages.JOBS)
    for job in stages.JOBS.values():
        for word in job.command:
            assert not word.endswith(".py") or Path(word).exists(), word
    for waves in stages.STAGES.values():
        for wave in waves:
            assert all(stages.JOBS[name].after in (None, *wave) for name in wave)


def test_the_tests_job_finds_the_files_with_tests_for_a_gpu(stages: Any) -> None:
    names = {Path(path).name for path in stages.gpu_tests()}
    assert {"test_on_gpu.py", "test_compiled_bias_act.py", "test_resampling.py"} <= names


def test_a_job_that_takes_too_long_is_stopped_and_what_it_said_is_kept(
    stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = "import time; print('begun', flush=True); time.sleep(60)"
    jobs = {
        "long": stages.Job((sys.executable, "-c", loop), 1 / 30),
        "wrong": stages.Job((sys.executable, "-c", "raise SystemExit(3)"), 1),
    }
    monkeypatch.setattr(stages, "JOBS", jobs)
    monkeypatch.setattr(stages, "LEAST_SEC", 0.0)
    monkeypatch.setitem(stages.STAGES, "first", (("long", "wrong"),))
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "first", "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        stages.main()
    assert ended.value.code == 1
    said = (tmp_path / "first.txt").read_text()
    assert "long | begun\n" in said
    assert "long | => stopped after 2 s" in said
    assert "wrong | => exit 3" in said
