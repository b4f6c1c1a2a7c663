"""Keys: one hash tag for each partition, and no two things under one name."""

from __future__ import annotations

import re

from orchestrator.store import keys
from protocol.ids import LogKind, LogName, partition_of
from tests.support.commits import topic


def test_all_keys_of_a_partition_share_its_hash_tag() -> None:
    log = topic()
    partition = partition_of(log)
    made = [
        *keys.log_keys(log)[:5],
        keys.ops(partition, "default", 1),
        keys.idempotency(partition, "default", "q"),
        keys.queue(partition, "default", "q", "h"),
        keys.buckets(partition, "default", "q"),
        keys.keyed(partition, "default", "q", "{other}"),
        keys.parked(partition, "default", "q", "{other}"),
        keys.leases(partition),
        keys.timers(partition),
        keys.held(partition, "default", "a"),
        keys.identities(partition, "default"),
        keys.joins(partition, "default", "{other}"),
        keys.wake(partition),
    ]

    assert len(set(made)) == len(made)
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in made} == {f"p{partition:02d}"}
    assert all(key.startswith(keys.partition_prefix(partition)) for key in made)


def test_logs_of_different_names_share_no_key() -> None:
    logs = [
        LogName(namespace, kind, name)
        for namespace in ("default", "topic")
        for kind in (LogKind.AGENT, LogKind.TOPIC)
        for name in ("a", "agent", "a.b")
    ]

    assert len({key for log in logs for key in keys.log_keys(log)[:4]}) == 4 * len(logs)


def test_the_keys_of_a_log_are_those_of_the_single_functions() -> None:
    log = topic()
    names = keys.log_keys(log)

    assert names[:4] == (keys.stream(log), keys.meta(log), keys.producers(log), keys.acks(log))
    assert names.listed_in == keys.log_index(partition_of(log), "default", LogKind.TOPIC)
    assert names.wake_name == "default/topic/news"
