"""No byte that leaves the process, but for the requests themselves, holds a secret in any form (invariant I12).

One real run under the worst conditions, several runs that end badly, and every command that prints: whatever they
wrote anywhere is searched for every secret they held, in every encoding that something on the way might apply.
"""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from e2e.lab import NEW_NPM_TOKEN, Lab, signal_at

from playbook.secret import Secret
from playbook.twins.moto_server import Fault, FaultKind

BATCH = ("--batch", "--yes", "--answers", "answers.toml")
WINDOW = 8
CUT_AT = 480
"""Where a reply of `CreateAccessKey` is cut: behind the secret, so that the SDK's own exception holds it (M2)."""
HEX_WINDOW = 12
"""Shorter runs of hexadecimal digits occur by chance in sums and ids."""
FILE_VALUE = "Fv7/qT+zR2&m\"Kx9<Lw4>Yh6'Bd8%Gc1"
COMMAND_VALUE = 'Cw5/nU+pV8&s"Ja3<Te7>Zo2%Xi6\\Ek4'
DEBUGGING = {
    "HTTPX_LOG_LEVEL": "trace",
    "BOTO_LOG_LEVEL": "DEBUG",
    "BOTOCORE_DEBUG": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONWARNINGS": "default",
}
LOUD = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
for name in ("botocore", "boto3", "urllib3", "httpx", "httpcore", "stamina", "structlog"):
    logging.getLogger(name).setLevel(logging.DEBUG)
logging.getLogger("test").debug("everything is logged")
{before}
from playbook.cli import main
main(sys.argv[1:])
"""
BOOM = """
import steps.replace_access_keys as steps
def explode(self, world, credential):
    stored.append(credential)
    if len(stored) > 3:  # the first three are the walk's, on a twin
        raise RuntimeError("boom", credential, credential.secret.reveal())
    put(self, world, credential)
stored, put, steps.StoreKey._put_secret = [], steps.StoreKey._put_secret, explode
"""
BOOM_IN_THE_CLIENT = """
import httpx
def explode(self, request, **options):
    if request.method != "GET" and not exploded:
        exploded.append(True)
        raise ValueError(request.headers["authorization"], request.read())
    return send(self, request, **options)
exploded, send, httpx.Client.send = [], httpx.Client.send, explode
"""


# --- What is searched for -------------------------------------------------------------------------------------------


def windows(text):
    """Every piece of a secret that is long enough to be one."""
    for size in (WINDOW, HEX_WINDOW):
        for start in range(len(text) - size + 1):
            piece = text[start : start + size]
            if (re.fullmatch(r"[0-9a-fA-F_-]+", piece) is None) is (size == WINDOW):
                yield piece


def encodings(text):
    """The forms in which a text may reach a file: by name, the bytes to look for."""
    raw = text.encode()
    forms = {
        "url": quote(text, safe=""),
        "url with plus": quote_plus(text),
        "url but for slashes": quote(text),
        "json": json.dumps(text)[1:-1],
        "json with slashes": json.dumps(text)[1:-1].replace("/", "\\/"),
        "json twice": json.dumps(json.dumps(text))[3:-3],
        "repr": repr(text)[1:-1],
        "xml": html.escape(text),
        "hex": raw.hex(),
        "hex in capitals": raw.hex().upper(),
        "hex with blanks": raw.hex(" "),
        "octets": " ".join(map(str, raw)),
        "backwards": text[::-1],
    }
    for offset in range(3):
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            # Only the characters that hang on nothing but the secret, wherever in a longer text it stands.
            first, last = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6
            forms[f"{name} at {offset}"] = encode(b"\0" * offset + raw).decode()[first:last]
    found = {name: form.encode() for name, form in forms.items()}
    return {**found, "utf-16": text.encode("utf-16-le"), "utf-32": text.encode("utf-32-le")}


class Hunt:
    """Every trace of every secret, and a search for them in whatever was written."""

    def __init__(self, secrets, public):
        self.traces = {}
        for name, text in secrets.items():
            for encoding, form in encodings(text).items():
                self.traces[form] = f"{name} as {encoding}"
            for piece in windows(text):
                if piece not in public:
                    self.traces[piece.encode()] = f"{name}, a piece of it"

    def found_in(self, content):
        return sorted({what for trace, what in self.traces.items() if trace in content})


def test_the_hunt_finds_what_it_looks_for():
    hunt = Hunt({"secret": FILE_VALUE}, public="")

    for encoding, form in encodings(FILE_VALUE).items():
        assert hunt.found_in(b'{"x":"' + form + b'"}'), encoding
    for offset in range(3):
        whole = base64.b64encode(b"user:"[: 3 + offset] + FILE_VALUE.encode() + b"\n")
        assert hunt.found_in(whole), offset
    assert hunt.found_in(b"..." + FILE_VALUE[5:13].encode() + b"...")
    assert hunt.found_in(f"Basic {FILE_VALUE[:7]}".encode()) == []
    assert Hunt({"secret": FILE_VALUE}, public=FILE_VALUE[:8]).found_in(FILE_VALUE[:8].encode()) == []


# --- Runs that write as much as they can ----------------------------------------------------------------------------


class Archive:
    """Everything that was written, by where."""

    def __init__(self, home):
        self.home = home
        self.written = {}

    def keep(self, name, *parts):
        self.written[name] = b"\n".join(part if isinstance(part, bytes) else part.encode() for part in parts)

    def files(self):
        skipped = {"secret-value", "answers.toml", "print-value.sh", "token"}
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and path.name not in skipped
        }


class Watch:
    """The command lines of every process on the machine, looked at again and again."""

    def __init__(self):
        self.seen = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._ended.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self.seen.add((process / "cmdline").read_bytes())
                except OSError:
                    continue

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._ended.set()
        self._thread.join()


def loudly(incident, home, *arguments, before="", **more):
    """Run the program with every logger at DEBUG, in a process that was told to before it began."""
    return subprocess.run(
        [sys.executable, "-c", LOUD.format(before=before), *map(str, arguments)],
        env=incident.environment(home, **DEBUGGING, **more),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def hunted(tmp_path_factory):
    """Run everything once; answer the secrets that were held and all that was written."""
    home = tmp_path_factory.mktemp("home")
    archive = Archive(home)
    value_file, script = home / "secret-value", home / "print-value.sh"
    value_file.write_text(FILE_VALUE)
    value_file.chmod(0o600)
    script.write_text(f"cat <<'END'\n{COMMAND_VALUE}\nEND\n")
    minted, ends = {}, []
    with Lab(3) as lab, Watch() as watch:
        note = lab.aws._note

        def note_minted(request, environ, reply, made_key_id=""):
            if made_key_id:
                secret = minted[f"minted {made_key_id}"] = lab.aws.secret_of(made_key_id).reveal()
                ends.append((reply.body.index(secret.encode()) + len(secret), len(reply.body)))
            note(request, environ, reply, made_key_id)

        lab.aws._note = note_minted
        run_on_a_bad_night(archive, lab, lab.take(), f"file:{value_file}")
        run_with_a_bug(archive, lab.take(), "env:NEW_NPM_TOKEN")
        run_with_a_broken_client(archive, lab.take(), f'command:["sh","{script}"]')
        archive.keep("user agents", repr([(seen.user_agent, seen.operation) for seen in lab.aws.requests()]))
        archive.keep("targets", repr(lab.circleci_writes))
        operators = {f"operator {item.number}": lab.aws.operator(item.account) for item in lab.incidents}
        old = {f"old {key.key_id}": key.secret.reveal() for key in lab.sandbox.keys.values()}
        stored = {item.npm_token() for item in lab.incidents}
        token = lab.sandbox.token.reveal()
    archive.keep("command lines", *watch.seen)
    assert stored == {Secret(value).digest() for value in (NEW_NPM_TOKEN, FILE_VALUE, COMMAND_VALUE)}
    assert len(minted) == 2 + 2 + 1
    secret_ends, body_ends = ends[0]
    assert secret_ends <= CUT_AT < body_ends
    return {
        **minted,
        **old,
        **{name: key.secret.reveal() for name, key in operators.items()},
        "the CircleCI token": token,
        "the value from the environment": NEW_NPM_TOKEN,
        "the value from a file": FILE_VALUE,
        "the value from a command": COMMAND_VALUE,
    }, archive


def write_answers(archive, incident, source):
    text = incident.answers(
        keys='strategy = "replace"\non_lost_secret = "recreate"', npm=f"value_from = {json.dumps(source)}"
    )
    (archive.home / "answers.toml").write_text(text)


def run_on_a_bad_night(archive, lab, incident, source):
    """A dry run, a run in which both platforms lose replies, and every command that prints it."""
    write_answers(archive, incident, source)
    dry = loudly(incident, archive.home, "run", "--dry-run", *BATCH, "--json", "--case", "dry")
    assert dry.returncode == 0, dry.stderr
    archive.keep("dry run", dry.stdout, dry.stderr)
    lab.aws.inject(Fault(operation="CreateAccessKey", kind=FaultKind.SHORTEN_REPLY, at_byte=CUT_AT))
    lab.break_circleci("drop-reply:put_variable:2", "server-error:put_variable:5")
    live = loudly(incident, archive.home, "run", *BATCH, "--case", "run")
    lab.heal()
    assert live.returncode == 0, live.stderr
    assert b"everything is logged" in live.stderr
    archive.keep("run", live.stdout, live.stderr)
    show(archive, incident, "run")


def run_with_a_bug(archive, incident, source):
    """A run that ends inside our own code, with secrets in the exception; then it is resumed without the bug."""
    write_answers(archive, incident, source)
    ended = loudly(incident, archive.home, "run", *BATCH, "--case", "bug", before=BOOM)
    assert ended.returncode == 1
    assert b"this is a bug (RuntimeError at <string>:" in ended.stderr
    resumed = loudly(incident, archive.home, "resume", "bug", *BATCH)
    assert resumed.returncode == 0, resumed.stderr
    archive.keep("bug", ended.stdout, ended.stderr, resumed.stdout, resumed.stderr)


def run_with_a_broken_client(archive, incident, source):
    """Any exception of the transport counts as a lost reply: it is written again."""
    write_answers(archive, incident, source)
    done = loudly(incident, archive.home, "run", *BATCH, "--case", "client", before=BOOM_IN_THE_CLIENT)
    assert done.returncode == 0, done.stderr
    archive.keep("client", done.stdout, done.stderr)


def show(archive, incident, name):
    """Every command that prints a case."""
    for command in (("status",), ("status", "--json"), ("report",), ("report", "--format", "json"), ("answers",),
                    ("verify",), ("resume", *BATCH)):  # fmt: skip
        shown = incident.run(archive.home, command[0], name, *command[1:])
        assert shown.returncode == 0, (command, shown.stderr)
        archive.keep(" ".join(command), shown.stdout, shown.stderr)


def test_no_secret_is_in_anything_that_was_written(hunted):
    secrets, archive = hunted
    public = "\n".join([*secrets, *(path.name for path in archive.home.iterdir())])
    hunt = Hunt(secrets, public)
    written = {**archive.written, **archive.files()}

    found = {where: traces for where, content in written.items() if (traces := hunt.found_in(content))}

    total = sum(map(len, written.values()))
    print(f"{len(secrets)} secrets, {len(hunt.traces)} traces of them, looked for in {total} bytes of {len(written)} "
          f"places: {total * len(hunt.traces)} comparisons")  # fmt: skip
    assert found == {}
    names = {Path(where).name for where in written}
    assert names >= {"journal.jsonl", "log.jsonl", "inventory.jsonl", "plan.jsonl"}
    assert total > 100_000


def test_the_hunt_would_have_found_them(hunted):
    """The same search over one journal into which somebody wrote a secret."""
    secrets, archive = hunted
    hunt = Hunt(secrets, "")
    journal = archive.files()["run/journal.jsonl"]

    for name, text in secrets.items():
        assert hunt.found_in(journal.replace(b'"Sealed"', json.dumps(text).encode())), name


def test_only_the_owner_may_read_what_was_written(hunted):
    _, archive = hunted

    for case in (archive.home / name for name in ("dry", "run", "bug", "client")):
        assert case.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in case.iterdir()} == {0o600}


def test_a_killed_run_leaves_no_secret_behind(tmp_path):
    """SIGKILL between the mint and the places: what is on disk then is all that anybody will ever find."""
    with Lab(1) as lab:
        incident = lab.take()
        (tmp_path / "answers.toml").write_text(incident.answers())
        process = incident.start(tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case")
        assert signal_at(process, tmp_path / "case", "Applied", "iam:create-access-key:", 1)
        said = process.communicate(timeout=30)
        (key_id,) = incident.made()
        hunt = Hunt({"minted": lab.aws.secret_of(key_id).reveal(), "token": lab.sandbox.token.reveal()}, "")

    assert hunt.found_in("\n".join(said).encode()) == []
    written = {path.name: hunt.found_in(path.read_bytes()) for path in (tmp_path / "case").iterdir()}
    assert written["journal.jsonl"] == []
    assert not any(written.values())
    assert not list(Path.cwd().glob("core*"))
