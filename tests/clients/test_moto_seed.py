"""What a scenario says of an account is what the real client reads of it over moto."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twins.test_scenarios import RIGHTS

from playbook.clients.aws import connect
from playbook.ports import TrailKey
from playbook.sandbox import Sandbox
from playbook.twins.scenario import state_from_text
from playbook.twins.world import TwinWorld

ACCOUNT = "111122223333"


@pytest.fixture
def both(monkeypatch):
    """The twin, the client over moto, and the ids of the keys that stand for the twin's."""
    twin = TwinWorld(state_from_text("rights", RIGHTS)).aws[ACCOUNT]
    with Sandbox(state_from_text("rights", RIGHTS)) as sandbox:
        for name, value in sandbox.environment().items():
            monkeypatch.setenv(name, value)
        accounts = connect(case_id="c")
        yield twin, accounts.accounts[ACCOUNT], {key_id: made.key_id for key_id, made in sandbox.keys.items()}
        accounts.close()


def without_times(principal, **fixed):
    return replace(principal, created_at=None, **fixed)


def test_who_may_do_what_is_the_same(both):
    twin, client, _ = both
    said, read = twin.details(), client.details()
    # Moto has no boundaries of users, and no policy of AWS's own unless the scenario describes it.
    user = next(user for user in read.users if user.name == "ci")
    expected = without_times(said.users[0], boundary="", attached=said.users[0].attached[:1])
    assert without_times(user) == expected
    assert [without_times(group) for group in read.groups] == [without_times(group) for group in said.groups]
    assert [without_times(role) for role in read.roles] == [without_times(role) for role in said.roles]
    assert [(policy.arn, policy.document) for policy in read.policies] == [
        (policy.arn, policy.document) for policy in said.policies
    ]
    assert without_times(client.role("admin")) == without_times(twin.role("admin"))
    assert client.user_tags("ci") == twin.user_tags("ci")
    assert [item.kind for item in client.footholds("ci")] == [item.kind for item in twin.footholds("ci")]
    assert {(item.arn, item.url, item.client_ids, item.saml) for item in client.providers()} == {
        (item.arn, item.url, item.client_ids, item.saml) for item in twin.providers()
    }


def test_the_trail_is_the_same_but_for_the_keys(both):
    twin, client, key_ids = both
    (key,) = twin.access_keys("ci").keys
    (said,) = twin.trail(TrailKey.ACCESS_KEY_ID, key.id, key.created_at)
    (read,) = client.trail(TrailKey.ACCESS_KEY_ID, key_ids[key.id], key.created_at)
    assert read == replace(said, key_id=key_ids[key.id], resources=read.resources)
    assert set(said.resources) <= set(read.resources)
    (said,) = twin.trail(TrailKey.ACCESS_KEY_ID, said.issued_key_id, key.created_at)
    (read,) = client.trail(TrailKey.ACCESS_KEY_ID, said.key_id, key.created_at)
    assert read == said
