"""A pytest plugin for the environments of the clients: writes down how each check ended."""

from __future__ import annotations

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line of JSON for everything that failed, and for every check that passed."""
    if report.when == "call" or report.failed:
        entry = {"check": report.nodeid, "passed": report.passed, "text": report.longreprtext + report.capstdout}
        with open(os.environ["CHECKS_REPORT"], "a") as file:
            file.write(json.dumps(entry) + "\n")
