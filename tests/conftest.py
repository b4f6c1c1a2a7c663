"""What holds for every test: the order of the layers, their time limits, and the account of them at the end."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.timing import scaled

LAYERS = {"unit": 30.0, "property": 120.0, "simulation": 120.0, "integration": 90.0, "chaos": 300.0}
"""The layers in the order in which they run, with the limit of one test in seconds."""

OTHER = "other"
TESTS = Path(__file__).parent
ROOT = TESTS.parent

settings.register_profile(
    "fleetline",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("fleetline")


def layer_of(path: Path) -> str:
    """Return the layer of a test file: the folder under `tests/`."""
    folder = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else OTHER
    return folder if folder in LAYERS else OTHER


class LayerReport:
    """Adds up, layer by layer, how many tests ran and how long they took, also where several ran at the same time."""

    def __init__(self) -> None:
        self._tests: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of one test, which may have run in a worker: all that is known of it is its name."""
        layer = layer_of(ROOT / report.location[0])
        self._seconds[layer] += report.duration
        self._tests[layer] += report.when == "call"
        self._failed[layer] += report.failed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        terminalreporter.section("layers")
        for layer in [*LAYERS, OTHER]:
            count = self._tests[layer]
            if count or self._failed[layer]:
                failed = f", {self._failed[layer]} failed" if self._failed[layer] else ""
                terminalreporter.write_line(f"{layer:<12} {count:>5} tests {self._seconds[layer]:>8.1f} s{failed}")
            elif layer != OTHER:
                terminalreporter.write_line(f"{layer:<12} not in this run")


def pytest_configure(config: pytest.Config) -> None:
    """Install the account of the layers, and let the programs that tests start be interrupted.

    A shell that starts the tests in the background has them ignore SIGINT, and so would everything they start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "needs(program): the test runs where the program is installed, and must in CI")
    config.pluginmanager.register(LayerReport(), "fleetline-layers")


def lacks_a_program(item: pytest.Item) -> bool:
    """Return whether a test's program is missing here; never in CI, where the test has to fail instead."""
    if os.environ.get("CI"):
        return False
    return any(shutil.which(str(mark.args[0])) is None for mark in item.iter_markers("needs"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here, put the layers in order, and give each test its limit."""
    lacking = [item for item in items if lacks_a_program(item)]
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]
    order = {layer: place for place, layer in enumerate([*LAYERS, OTHER])}
    items.sort(key=lambda item: order[layer_of(item.path)])
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_s = float(marker.args[0]) if marker and marker.args else LAYERS.get(layer_of(item.path), 60.0)
        item.add_marker(pytest.mark.timeout(scaled(limit_s)), append=False)


@pytest.fixture(autouse=True)
def _log_lines_of_one_test_are_its_own() -> Iterator[None]:
    """Undo what a command that ran in this process configured: the next test may look for lines that it hides."""
    yield
    structlog.reset_defaults()
