"""What a program that configured nothing sees of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, structlog
from agent.logs import ensure_logging
if "CONFIGURED" in os.environ:
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
ensure_logging()
log = structlog.get_logger()
log.info("quiet")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("loud")
"""


@pytest.mark.parametrize(
    ("environment", "quiet_is_told"),
    [({}, False), ({"FLEETLINE_LOG_LEVEL": "info"}, True), ({"FLEETLINE_LOG_LEVEL": "nonsense"}, False)],
)
def test_nothing_below_a_warning_is_told_unless_it_is_asked_for(
    environment: dict[str, str], quiet_is_told: bool
) -> None:
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == ""
    assert ("quiet" in found.stderr) == quiet_is_told
    assert "ZeroDivisionError" in found.stderr


def test_a_program_that_configured_its_logs_is_left_alone() -> None:
    command = [sys.executable, "-c", PROGRAM]
    environment = {"CONFIGURED": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "quiet" in found.stdout
