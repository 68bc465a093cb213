"""Servers for the installed program: the scenario `small`, or several small incidents side by side."""

from __future__ import annotations

import pytest
from e2e.lab import NEW_NPM_TOKEN, Lab, scrubbed

from playbook.sandbox import Sandbox
from playbook.twins.scenario import load


@pytest.fixture
def sandbox():
    with Sandbox(load("small").state) as served:
        yield served


@pytest.fixture
def environment(sandbox, tmp_path):
    return {**scrubbed(tmp_path), **sandbox.environment(), "NEW_NPM_TOKEN": NEW_NPM_TOKEN}


@pytest.fixture(scope="module")
def lab(request):
    """One moto and one twin for a module, with as many incidents as it asks for in `INCIDENTS`."""
    with Lab(request.module.INCIDENTS) as served:
        yield served


@pytest.fixture
def incident(lab):
    """An incident of the test's own; faults end with the test."""
    yield lab.take()
    lab.heal()
