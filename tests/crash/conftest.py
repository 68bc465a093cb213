"""Counts that are worth seeing even when nothing fails, printed once more at the end of the run."""

import pytest

_said: list[str] = []


@pytest.fixture
def say():
    """Print a line now, and again in the closing summary."""

    def say_it(line: str) -> None:
        print(line)
        _said.append(line)

    return say_it


def pytest_terminal_summary(terminalreporter):
    if _said:
        terminalreporter.section("crash sweep")
        for line in _said:
            terminalreporter.write_line(line)
