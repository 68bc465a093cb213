"""An environment in which no SDK finds anything of this machine, and servers that end with the test."""

from __future__ import annotations

import logging
import os

import pytest
import stamina
from clients.scripted import scripted_server


@pytest.fixture
def serve():
    """A factory of scripted servers that end with the test."""
    open_ones = []

    def start(answer):
        manager = scripted_server(answer)
        open_ones.append(manager)
        return manager.__enter__()

    yield start
    for manager in reversed(open_ones):
        manager.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("AWS_", "CIRCLE", "BOTO_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def no_backoff():
    """Attempts stay as many as they are; the waits between them vanish."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def all_records():
    """Every log record that reaches the root logger, which is set to DEBUG."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(f"{record.name} {record.getMessage()} {record.args!r} {record.exc_text or ''}")

    root, handler = logging.getLogger(), Keep(level=0)
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield records
    root.removeHandler(handler)
    root.setLevel(level)
