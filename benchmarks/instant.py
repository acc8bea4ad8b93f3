"""A pytest plugin: a failure is printed when it happens, not at the end of the run.

PYTHONPATH=benchmarks python -m pytest -p instant …
"""

import sys
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Print what failed; called in the process that reports."""
    if report.failed:
        print(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}", file=sys.stderr)
