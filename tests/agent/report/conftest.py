"""What is gathered of one small run, once for all tests of the report."""

from pathlib import Path

import pytest

from agent import load
from agent.report.gather import ReportData, gather


@pytest.fixture(scope="session")
def gathered(finished_run: Path) -> ReportData:
    return gather(load(finished_run), finished_run, 4, 0)
