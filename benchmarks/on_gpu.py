"""Everything that needs a CUDA GPU: two stages of a few minutes, the most telling jobs first.

    python benchmarks/on_gpu.py first -o results                    # right at all? and how fast
    python benchmarks/on_gpu.py rest -o results                     # the full tables
    python benchmarks/on_gpu.py first -o results --jobs tests step  # some of a stage's jobs
    python benchmarks/on_gpu.py first --rehearse -o results         # tiny, on a CPU

The jobs of a wave run at once, the waves one after the other: what is timed has the GPU to itself.
A job has a limit of its own, a stage one for all; what does not fit is stopped or left out. Every
line is written as it comes, with the seconds since the start and the name of its job, and every
figure into one JSON file.

``--plugin FOLDER`` measures against NVIDIA's operators, in a checkout of NVlabs/stylegan3.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = (sys.executable,)
SANITIZER = ("compute-sanitizer", "--report-api-errors", "no", "--error-exitcode", "9")
CPU, CUDA = ("--device", "cpu"), ("--device", "cuda")


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        command: Its words; ``{figures}`` and ``{scratch}`` are filled in.
        minutes: How long it may take.
        tool: What the command runs under on a GPU.
        rehearsal: Words that are added on the CPU; None: there is nothing to rehearse.
        after: The job of the same wave that has to end first.
        environment: Variables that are set.
        plugin: Words before the checkout of NVIDIA's operators, where there is one: () if the job
            makes no sense without, None if it has no use for it.
    """

    command: tuple[str, ...]
    minutes: float
    rehearsal: tuple[str, ...] | None = ()
    tool: tuple[str, ...] = ()
    after: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    plugin: tuple[str, ...] | None = None


TESTS = (
    *PYTHON, "-m", "pytest", "-v", "-m", "gpu", "--tb=short", "--durations=10", "-p", "instant",
    "-p", "no:benchmark", "-p", "no:cacheprovider",
)  # fmt: skip
LARGE = "(32_bits or int_counts)"
"""In the names of tests that fill the card: beside them no other one has its memory."""


def script(name: str, *options: str) -> tuple[str, ...]:
    """Return the command of a benchmark beside this file."""
    return (*PYTHON, str(HERE / f"{name}.py"), *options)


def with_figures(name: str, *options: str) -> tuple[str, ...]:
    return script(name, *options, "--figures", "{figures}")


def gpu_tests() -> list[str]:
    """Return the test files that have something for a GPU; to collect the others takes a while."""
    files = sorted((HERE.parent / "tests").rglob("test_*.py"))
    return [str(path) for path in files if "mark.gpu" in path.read_text()]


JOBS: dict[str, Job] = {
    "prefetch": Job(script("prefetch"), 1),
    "doctor": Job((*PYTHON, "-m", "ganc", "doctor"), 2),
    "tests": Job(
        (*TESTS, "-n", "12", "-k", f"not {LARGE}", *gpu_tests()), 2.5, ("--collect-only",),
        environment={"OMP_NUM_THREADS": "1"},
    ),
    "tests-large": Job(
        (*TESTS, "-n", "0", "-k", LARGE, *gpu_tests()), 1.5, ("--collect-only",), after="tests",
    ),
    "plugin-bias_act": Job(script("nvidia_plugin", "bias_act"), 3, None, plugin=()),
    "plugin-upfirdn2d": Job(script("nvidia_plugin", "upfirdn2d"), 3, None, plugin=()),
    "memcheck": Job(
        script("sanitize"), 3, CPU, tool=(*SANITIZER, "--tool", "memcheck"),
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    ),
    "racecheck": Job(
        script("sanitize"), 3, CPU, tool=(*SANITIZER, "--tool", "racecheck")
    ),
    "bias_act": Job(
        with_figures("bias_act", "--brief"), 2,
        (*CPU, "--shrink", "16", "--runs", "1"), plugin=("--plugin",),
    ),
    "upfirdn2d": Job(
        with_figures("upfirdn2d", "--brief"), 1, (*CPU, "--shrink", "16", "--rounds", "1"),
        plugin=("--plugin",),
    ),
    "filtered_lrelu": Job(
        with_figures("filtered_lrelu", "--brief"), 1.5, (*CPU, "--shrink", "16", "--runs", "1")
    ),
    "step": Job(
        with_figures("distill_step", *CUDA, "--resolution", "256", "--brief",
                     "--profile", "ganc bf16 channels_last, CUDA graphs"), 2,
        (*CPU, "--resolution", "16", "--channel-max", "8", "--batch", "4", "--steps", "4"),
    ),
    "diversity": Job(
        with_figures("diversity_speed", *CUDA, "--brief"), 2,
        (*CPU, "--batches", "1", "--batch", "2", "--directions", "3", "--resolution", "16",
         "--channel-max", "8"),
    ),
    "latency": Job(
        with_figures("latency", *CUDA, "--brief"), 1.5,
        (*CPU, "--resolution", "32", "--channel-max", "32", "--batches", "1", "--rounds", "2",
         "--speedup", "1.5"),
    ),
    "step-compiled": Job(
        with_figures("distill_step", *CUDA, "--resolution", "256", "--brief", "--checked", "0",
                     "--variants", "published", "ganc bf16 channels_last compile"), 2.5,
        (*CPU, "--resolution", "16", "--channel-max", "8", "--batch", "4", "--steps", "4"),
    ),
    "step-stylegan3": Job(
        with_figures("distill_step", *CUDA, "--resolution", "256", "--family", "stylegan3",
                     "--variants", "ganc bf16", "ganc bf16, CUDA graphs", "--brief",
                     "--profile", "ganc bf16, CUDA graphs"), 1.5,
        (*CPU, "--resolution", "16", "--channel-max", "8", "--batch", "4", "--steps", "4"),
    ),
    "agreement": Job(
        with_figures("diversity_speed", *CUDA, "--agreement", "--cuda-graphs",
                     "--samples", "1000"), 1, None,
    ),
    "training": Job(with_figures("nccl_training", "--steps", "100"), 2, (*CPU, "--steps", "8")),
    "demo": Job(
        (*PYTHON, "-m", "ganc", "demo", "--steps", "200", "-o", "{scratch}/demo"), 3,
        ("--steps", "2"),
    ),
}  # fmt: skip

STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "first": (
        ("prefetch",),
        ("doctor", "tests", "tests-large", "plugin-bias_act", "plugin-upfirdn2d"),
        ("memcheck", "racecheck"),
        ("step",), ("diversity",), ("bias_act",), ("upfirdn2d",),
    ),
    "rest": (
        ("prefetch",), ("step-stylegan3",), ("latency",), ("filtered_lrelu",),
        ("training",), ("demo", "agreement"), ("step-compiled",),
    ),
}  # fmt: skip
MINUTES = {"first": 5.0, "rest": 6.0}
LEAST_SEC = 20.0
"""What has to be left of a stage for another job to be started."""


class Run:
    """A stage that runs: where its output goes, and when it has to be over."""

    def __init__(self, given: argparse.Namespace, scratch: str) -> None:
        self.given, self.scratch = given, scratch
        self.folder: Path = given.output
        self.log = self.folder / f"{given.stage}.txt"
        self.figures = self.folder / "figures.json"
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.endings: dict[str, str] = {}

    @property
    def left_sec(self) -> float:
        return self.began + 60 * self.given.minutes - time.monotonic()

    def say(self, job: str, line: str) -> None:
        """Write a line, at once."""
        seconds = time.monotonic() - self.began
        with self.lock, self.log.open("a") as file:
            file.write(f"{seconds:5.1f} {job} | {line.rstrip()}\n")

    def wave(self, names: list[str]) -> None:
        """Run jobs at once."""
        over = {name: threading.Event() for name in names}
        threads = [threading.Thread(target=self._job, args=(name, over)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _job(self, name: str, over: dict[str, threading.Event]) -> None:
        job = JOBS[name]
        if job.after in over:
            over[job.after].wait()
        began = time.monotonic()
        limit = min(60 * job.minutes, self.left_sec)
        if limit < LEAST_SEC:
            ending = "left out: the stage's time is over"
        else:
            ending = self._run(name, job, limit)
        self.endings[name] = f"{ending}, {time.monotonic() - began:.0f} s"
        self.say(name, f"=> {self.endings[name]}")
        print(f"{name}: {self.endings[name]}", flush=True)
        over[name].set()

    def _run(self, name: str, job: Job, limit: float) -> str:
        command = self._command(job)
        if shutil.which(command[0]) is None:
            return f"there is no {command[0]}"
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(
                [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
            ).rstrip(os.pathsep), "PYTHONUNBUFFERED": "1", **job.environment,
        }  # fmt: skip
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=environment, start_new_session=True,
        ) as process:  # fmt: skip
            stop = threading.Timer(limit, _kill, [process])
            stop.start()
            assert process.stdout is not None
            for line in process.stdout:
                self.say(name, line)
            code = process.wait()
            is_stopped = stop.finished.is_set()
            stop.cancel()
        return f"stopped after {limit:.0f} s" if is_stopped else f"exit {code}"

    def _command(self, job: Job) -> list[str]:
        words = (word.format(figures=self.figures, scratch=self.scratch) for word in job.command)
        if self.given.rehearse:
            return [*words, *(job.rehearsal or ())]
        if job.plugin is None or self.given.plugin is None:
            return [*job.tool, *words]
        return [*job.tool, *words, *job.plugin, str(self.given.plugin)]


def _kill(process: subprocess.Popen[str]) -> None:
    """Stop a job and whatever it started, such as torchrun's processes, which leave its group."""
    for pid in [*_descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(child) for path in children for child in path.read_text().split()]
    return own + [other for child in own for other in _descendants(child)]


def chosen(given: argparse.Namespace) -> list[list[str]]:
    """Return the waves of a stage, without what was not asked for or cannot run here."""

    def is_wanted(name: str) -> bool:
        job = JOBS[name]
        if given.jobs and name not in given.jobs:
            return False
        if given.rehearse:
            return job.rehearsal is not None
        return job.plugin != () or given.plugin is not None

    waves = [[name for name in wave if is_wanted(name)] for wave in STAGES[given.stage]]
    return [wave for wave in waves if wave]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--jobs", nargs="+", choices=JOBS)
    parser.add_argument("--minutes", type=float, help="for the whole stage")
    parser.add_argument("--plugin", type=Path, help="checkout of NVlabs/stylegan3")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    given = parser.parse_args()
    if given.minutes is None:
        given.minutes = 60.0 if given.rehearse else MINUTES[given.stage]
    return given


def main() -> None:
    given = parse()
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(given, scratch)
        for wave in chosen(given):
            run.wave(wave)
    Path(f"{run.figures}.lock").unlink(missing_ok=True)
    failed = [name for name, ending in run.endings.items() if not ending.startswith("exit 0")]
    print(
        f"{len(run.endings)} jobs → {run.log}" + (f"; not well: {', '.join(failed)}" * bool(failed))
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
