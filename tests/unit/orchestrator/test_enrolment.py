"""Keys of peers: the table of states, who gets in with what, and the commit that changes a record."""

from __future__ import annotations

from itertools import product

import pytest

from orchestrator.auth.principal import Join
from orchestrator.core.enrolment import (
    TRANSITIONS,
    Ids,
    JoinUse,
    KeyCommand,
    KeyPlace,
    KeyRecord,
    KeyState,
    OtherKey,
    changed,
    enrolled,
    enter,
    judge_key,
    judge_token,
    note_other,
    write,
)
from orchestrator.store import keys
from orchestrator.store.commits import Below, Commit, Guard, HashSet, Outcome, Refusal, Refused
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.codes import CloseCode
from protocol.errors import InvalidName
from protocol.frames import Role

JOIN = Join(frozenset({"agent"}), frozenset({"*"}), 1)
PLACE = KeyPlace("default", Role.AGENT, "m1")
KEY, OTHER = bytes(range(32)), bytes(32)
IDS = Ids("c.1", "client:ada", 1_000)
P, A, R, V = KeyState.PENDING, KeyState.ACCEPTED, KeyState.REJECTED, KeyState.REVOKED
EXPECTED: dict[tuple[KeyState | None, str], KeyState | None] = {
    (None, "enrol"): A,
    (None, "ask"): P,
    (None, "replace"): None,
    (None, "accept"): None,
    (None, "reject"): None,
    (None, "revoke"): None,
    (P, "enrol"): None,
    (P, "ask"): None,
    (P, "replace"): None,
    (P, "accept"): A,
    (P, "reject"): R,
    (P, "revoke"): V,
    (A, "enrol"): None,
    (A, "ask"): None,
    (A, "replace"): None,
    (A, "accept"): A,
    (A, "reject"): None,
    (A, "revoke"): V,
    (R, "enrol"): None,
    (R, "ask"): None,
    (R, "replace"): P,
    (R, "accept"): A,
    (R, "reject"): R,
    (R, "revoke"): V,
    (V, "enrol"): None,
    (V, "ask"): None,
    (V, "replace"): P,
    (V, "accept"): None,
    (V, "reject"): None,
    (V, "revoke"): V,
}


def record(state: KeyState = A, *, bound: bool = True, key: bytes = KEY) -> KeyRecord:
    return KeyRecord(state, key.hex(), ("agent",), bound, 1, 1, "join:rack")


@pytest.mark.parametrize(("state", "command"), list(product((None, *KeyState), KeyCommand)))
def test_every_state_takes_every_command_as_the_table_says(state: KeyState | None, command: KeyCommand) -> None:
    assert enter(state, command) is EXPECTED[state, command.value]


def test_the_table_is_of_states_and_commands() -> None:
    assert set(EXPECTED) == {(state, command.value) for state, command in product((None, *KeyState), KeyCommand)}
    assert set(TRANSITIONS) <= set(product((None, *KeyState), KeyCommand))


@pytest.mark.parametrize(
    ("state", "code"),
    [(A, None), (P, CloseCode.KEY_PENDING), (R, CloseCode.KEY_REFUSED), (V, CloseCode.KEY_REVOKED)],
)
def test_the_holder_of_a_key_gets_in_where_it_is_accepted(state: KeyState, code: CloseCode | None) -> None:
    denied = judge_key(record(state), PLACE)
    assert (denied and denied.code) is code


@pytest.mark.parametrize(
    ("state", "bound", "code"),
    [
        (P, False, None),
        (R, False, None),
        (A, True, CloseCode.UNAUTHENTICATED),
        (P, True, CloseCode.UNAUTHENTICATED),
        (R, True, CloseCode.UNAUTHENTICATED),
        (V, True, CloseCode.KEY_REVOKED),
    ],
)
def test_a_token_alone_is_of_no_use_once_a_key_was_accepted(
    state: KeyState, bound: bool, code: CloseCode | None
) -> None:
    denied = judge_token(record(state, bound=bound), PLACE)
    assert (denied and denied.code) is code
    assert judge_token(None, PLACE) is None


def test_a_name_stays_bound_whatever_becomes_of_its_key() -> None:
    first = enrolled(None, KEY, JOIN, IDS, asks=True)
    assert first is not None
    assert (first.state, first.bound) == (P, False)
    accepted = changed(first, KeyCommand.ACCEPT, IDS)
    assert accepted is not None
    assert accepted.bound
    revoked = changed(accepted, KeyCommand.REVOKE, IDS)
    assert revoked is not None
    replaced = enrolled(revoked, OTHER, JOIN, IDS, asks=False)
    assert replaced is not None
    assert (replaced.state, replaced.key, replaced.bound) == (P, OTHER.hex(), True)


def test_another_key_takes_no_place_that_is_in_use() -> None:
    for state in (P, A):
        assert enrolled(record(state), OTHER, JOIN, IDS, asks=False) is None


def test_what_is_so_already_is_not_written_again() -> None:
    accepted = record()
    assert changed(accepted, KeyCommand.ACCEPT, IDS) is accepted
    assert changed(accepted, KeyCommand.REJECT, IDS) is None


def test_refused_keys_are_noted_once_a_second_at_most() -> None:
    noted = note_other(record(), OTHER, 5_000)
    assert noted is not None
    assert noted.other is not None
    assert (noted.other.count, noted.key) == (1, KEY.hex())
    assert note_other(noted, OTHER, 5_999) is None
    again = note_other(noted, KEY, 6_000)
    assert again is not None
    assert again.other is not None
    assert (again.other.count, again.other.ts_ms) == (2, 6_000)


def test_a_record_is_read_as_it_was_written() -> None:
    for each in (record(), record(P, bound=False)):
        assert KeyRecord.decode(each.encode()) == each
    noted = note_other(record(), OTHER, 5_000)
    assert noted is not None
    assert KeyRecord.decode(noted.encode().encode()) == noted
    assert isinstance(KeyRecord.decode(noted.encode()).other, OtherKey)
    later = noted.encode().replace("{", '{"later":1,', 1)
    assert KeyRecord.decode(later) == noted


def test_a_place_is_of_names() -> None:
    assert KeyPlace.make("ns", Role.CLIENT, "ada").field == "client/ada"
    for namespace, name in (("NS", "ada"), ("ns", "a/b"), ("ns", "")):
        with pytest.raises(InvalidName):
            KeyPlace.make(namespace, Role.CLIENT, name)


def joining(name: str, key: bytes, uses: int, commit: str) -> Commit:
    ids = Ids(commit, "join:rack", 1_000)
    made = enrolled(None, key, JOIN, ids, asks=False)
    assert made is not None
    return write(KeyPlace("default", Role.AGENT, name), None, made, ids, use=JoinUse("t", uses, 60_000))


async def test_a_key_is_recorded_and_its_use_counted_whole_or_not_at_all() -> None:
    store = MemoryStore(MemoryServer(lambda: 1_000), "s")
    await store.open()
    assert isinstance(await store.commit(joining("a", KEY, 2, "h.1")), Outcome)
    taken = await store.commit(joining("a", OTHER, 2, "h.2"))
    assert isinstance(taken, Refused)
    assert (taken.reason, taken.guard) == (Refusal.GUARD, 0)
    assert isinstance(await store.commit(joining("b", KEY, 2, "h.3")), Outcome)
    spent = await store.commit(joining("c", KEY, 2, "h.4"))
    assert isinstance(spent, Refused)
    assert (spent.reason, spent.guard) == (Refusal.GUARD, 1)
    assert await store.hash_size(keys.joins(PLACE.partition, "default", "t")) == 2
    assert (await store.hash_all(PLACE.key)).keys() == {"agent/a", "agent/b"}
    await store.close()


def test_the_commit_guards_what_was_read() -> None:
    known = record(P)
    accepted = changed(known, KeyCommand.ACCEPT, IDS)
    assert accepted is not None
    commit = write(PLACE, known.encode(), accepted, IDS)
    assert commit.guards == (Guard(PLACE.key, "agent/m1", known.encode()),)
    assert commit.ops == (
        HashSet(PLACE.key, {"agent/m1": accepted.encode()}),
        HashSet(PLACE.bound_key, {"version": IDS.commit}),
    )
    assert commit.hints == ("bound",)
    noted = note_other(accepted, b"o" * 32, 10**6)
    assert noted is not None
    assert len(write(PLACE, accepted.encode(), noted, IDS).ops) == 1, "it was bound before"
    with_use = write(PLACE, None, accepted, IDS, use=JoinUse("t", 3, 60_000))
    assert with_use.conditions[1] == Below(keys.joins(PLACE.partition, "default", "t"), 3)
