"""The SDKs' own records reach no handler, and importing the package loads no SDK."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from playbook.clients import SDK_LOGGERS, quiet_sdk_loggers


@pytest.mark.parametrize("name", [f"{logger}{child}" for logger in SDK_LOGGERS for child in ("", ".child.of.it")])
def test_no_record_reaches_the_root_even_from_a_child_set_to_debug(all_records, name):
    quiet_sdk_loggers()
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        for at in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(at, "a canary")
    finally:
        logger.setLevel(level)
    assert not any("canary" in record for record in all_records)


def test_quieting_twice_adds_no_second_handler():
    quiet_sdk_loggers()
    before = [len(logging.getLogger(name).handlers) for name in SDK_LOGGERS]
    quiet_sdk_loggers()
    assert [len(logging.getLogger(name).handlers) for name in SDK_LOGGERS] == before


def test_the_package_alone_loads_no_sdk():
    code = "import sys, playbook.clients, playbook.clients.endpoints, playbook.clients.credentials; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"boto3", "botocore", "httpx", "stamina", "moto"} & set(loaded)
