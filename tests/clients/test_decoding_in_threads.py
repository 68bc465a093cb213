"""Replies and rows are decoded on worker threads; `msgspec` must not meet a new shape on two of them at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHILDREN = 30
WORKER = Path(__file__).with_name("decoding_children.py")

SCRIPT = """
import dataclasses, sys, threading
from playbook.clients.circleci_transport import Answer, decoded
from playbook.errors import Effect

# Threads take turns so often that one meets a shape while another is still learning it.
sys.setswitchinterval(1e-6)
answer = Answer(status=200, request_id="", retry_after_s=None, body=b'{"inner": {"a": "x"}}')
rest = [(f"field{number}", "list[int] | None", None) for number in range(30)]
for number in range(60):
    inner = dataclasses.make_dataclass(f"Inner{number}", [("a", str), *rest])
    shape = dataclasses.make_dataclass(f"Shape{number}", [("inner", inner), *rest])
    together = threading.Barrier(8)
    def decode():
        together.wait()
        assert decoded("a reply", answer, shape, Effect.NONE).inner.a == "x"
    threads = [threading.Thread(target=decode) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("decoded")
"""


def test_a_shape_that_many_threads_meet_first_does_not_end_the_process():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode != -signal.SIGSEGV, "the decoder crashed the process"
    assert (done.returncode, done.stdout.strip()) == (0, "decoded"), done.stderr


@pytest.mark.parametrize("what", ["replies", "rows", "actions", "settings", "world"])
def test_the_programs_own_types_may_be_met_first_by_many_threads(what, tmp_path):
    """30 fresh processes, 12 threads each; with bare msgspec 4 to 26 of the 30 die for rows, actions and worlds."""
    command = [sys.executable, str(WORKER), what, str(CHILDREN), str(tmp_path / "world.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    print(f"\n{what}: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"0": CHILDREN}, done.stderr
