"""The judgement: the promise, point by point, over what the server holds and what everybody was told."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from agent.errors import PublishRefused
from orchestrator.hub import Hub
from orchestrator.store.keys import log_keys
from orchestrator.store.memory_data import Data
from protocol.codec import unpack_record, unpack_value
from protocol.control import AttemptLost, Checkpoint, Kind, Submitted, Succeeded, read_control
from protocol.entry import Entry, Record
from protocol.frames import ResetReason
from protocol.ids import LogName
from protocol.run import FINAL, RunState
from tests.support.checkers import (
    Began,
    Dump,
    Given,
    Rule,
    Violation,
    WasReset,
    check_acknowledged,
    check_delivered,
    check_log,
)
from tests.support.run_checkers import check_journal, check_run
from tests.support.simulation.dumps import dump_of, entries_of, log_paths, meta_of
from tests.support.simulation.fleet import Fleet
from tests.support.simulation.ledger import Event, Followed, Produced

__all__ = ["apart", "audit", "ended_badly", "leftovers", "promise", "unquiet"]


NOTICED_MS = 1_000
"""An outage of the store that is shorter may pass unnoticed."""
SLACK_MS = 700
"""A hub notices an outage at its next look, and looks every half a second."""


# Quiet


def unquiet(fleet: Fleet) -> list[str]:
    """Return what is still under way; nothing, once the fleet is quiet."""
    return [*fleet.faults(), *_runs_open(fleet), *_work_open(fleet), *_followers_behind(fleet)]


def apart(fleet: Fleet) -> list[str]:
    """Return the clients that have no session."""
    clients = [(slot.name, slot.client) for slot in fleet.clients]
    ready = {name for name, client in clients if client is not None and client.links.main.peer.ready}
    return [f"{name} is not connected" for name, _ in clients if name not in ready]


def _runs_open(fleet: Fleet) -> Iterator[str]:
    data = fleet.server.data
    for path in log_paths(data):
        if path.startswith("run/") and RunState(meta_of(data, path)["state"]) not in FINAL:
            yield f"{path} is {meta_of(data, path)['state']}"


def _work_open(fleet: Fleet) -> Iterator[str]:
    for slot in fleet.clients:
        if slot.work is not None and not slot.work.done():
            yield f"{slot.name} is not done"


def _followers_behind(fleet: Fleet) -> Iterator[str]:
    data = fleet.server.data
    for followed in fleet.ledger.followers.values():
        head = _last_due(data, followed)
        if followed.handled < head:
            yield f"{followed.name} has handled {followed.handled} of {head} of {followed.log}"


def _last_due(data: Data, followed: Followed) -> int:
    """Return the offset of the last entry of a log that a subscriber asked for."""
    if followed.kinds is None:
        return int(meta_of(data, followed.log).get("head", "0"))
    entries = entries_of(data, followed.log)
    return max((entry.offset for entry in entries if unpack_record(entry.packed).kind in followed.kinds), default=0)


# Meanwhile


def audit(fleet: Fleet) -> list[str]:
    """Return what must never be so, at no moment: an acknowledgement stored of what was not handled."""
    if fleet.ledger.failed_over:
        return []  # what was handled may not be there any more, and is lowered a moment later
    found = []
    for followed in fleet.ledger.followers.values():
        key = log_keys(LogName.parse(followed.log)).acks
        value = fleet.server.data.field(key, f"client:{followed.name}/{followed.name}")
        stored = int(value.split()[0]) if value else 0
        ahead = [
            entry.offset
            for entry in entries_of(fleet.server.data, followed.log)
            if followed.handled < entry.offset <= stored
            and (followed.kinds is None or unpack_record(entry.packed).kind in followed.kinds)
        ]
        if ahead:
            found.append(f"{followed.name} has {stored} stored as acknowledged, and has not handled {ahead}")
    return found


# The promise


def promise(fleet: Fleet) -> list[str]:
    """Return what was promised and not kept."""
    data, ledger = fleet.server.data, fleet.ledger
    dumps = {path: dump_of(data, path, ledger.trimmed.get(path, {})) for path in log_paths(data)}
    found: list[Violation] = []
    for path, dump in dumps.items():
        found += check_log(dump)
        if path.startswith("run/"):
            found += check_run(dump, meta=meta_of(data, path))
            found += _check_result(dump)
            found += _check_leases(fleet, dump)
    for path, told in ledger.acknowledged.items():
        lost = _told(fleet, path)
        found += check_acknowledged(dumps[path], [said for said in told if (said.kind, said.body) not in lost])
    for produced in ledger.producers:
        found += _check_producer(fleet, dumps[produced.log], produced)
    for followed in ledger.followers.values():
        found += _check_follower(fleet, dumps[followed.log], followed)
    return [*map(str, found), *_check_runs(fleet, dumps), *_indices(fleet)]


def _told(fleet: Fleet, path: str) -> set[tuple[str, bytes]]:
    """Return kinds and bodies of what a log lost in a failover."""
    records = [unpack_record(entry.packed) for entry in fleet.ledger.lost.get(path, [])]
    return {(record.kind, record.body) for record in records}


def _check_leases(fleet: Fleet, dump: Dump) -> Iterator[Violation]:
    """No lease is judged until a full lease time has passed since the hub began, or the store was away."""
    lease_ms, ledger = fleet.settings.lease_ms, fleet.ledger
    for entry, record in dump.records():
        if record.kind != "$lost" or "lease" not in read_control(AttemptLost, record.body).reason:
            continue
        since = [ledger.born_ms.get(record.src.removeprefix("hub:"), 0)]
        since += [end for begin, end in ledger.outages_ms if end - begin >= NOTICED_MS and begin < entry.ts_ms]
        after_ms = entry.ts_ms - max(since)
        if after_ms < lease_ms - SLACK_MS:
            message = f"a lease of {lease_ms} ms was judged {after_ms} ms after {record.src} could know of it"
            yield Violation(Rule.FENCED, dump.log, message, entry.offset)


def _check_result(dump: Dump) -> Iterator[Violation]:
    """The attempt that succeeded wrote all that its handler emitted, in order, and once."""
    records = list(dump.records())
    asked = read_control(Submitted, records[0][1].body)
    given = unpack_value(asked.input)
    if asked.handler == "journal":
        yield from check_journal(dump, dense=False)
    last = records[-1][1]
    if last.kind != "$succeeded":
        return
    result = unpack_value(read_control(Succeeded, last.body).result)
    due = given["count"]
    if asked.handler == "journal":
        numbers = [unpack_value(record.body)["n"] for _, record in records if record.kind == "doubled"]
        right = due * (due - 1)
    else:
        own = [record for _, record in records if record.kind == "step" and record.attempt == last.attempt]
        numbers = [unpack_value(record.body)["n"] for record in own]
        right = due
    whole = asked.handler != "stubborn" or result == "finished"
    if whole and numbers != list(range(_begins_at(records) if asked.handler == "saved" else 0, due)):
        yield Violation(Rule.SEQUENCE, dump.log, f"{asked.handler} wrote {numbers}, {due} were due")
    if asked.handler != "stubborn" and result != right:
        yield Violation(Rule.SEQUENCE, dump.log, f"{asked.handler} returned {result}, {right} was due")


def _begins_at(records: list[tuple[Entry, Record]]) -> int:
    """Return the last checkpoint before the last attempt began, 0 without one."""
    claim = max(place for place, (_, record) in enumerate(records) if record.kind == Kind.CLAIMED)
    before = [record for _, record in records[:claim] if record.kind == Kind.CHECKPOINT]
    return int(unpack_value(read_control(Checkpoint, before[-1].body).value)) if before else 0


def _check_producer(fleet: Fleet, dump: Dump, produced: Produced) -> Iterator[Violation]:
    """What a producer sent is in the log in its order, without a gap, up to at least what was acknowledged."""
    lost = {body for _, body in _told(fleet, produced.log)}
    places: dict[bytes, list[int]] = {}
    for entry, record in dump.records():
        places.setdefault(record.body, []).append(entry.offset)
    there = [places.get(body, []) for body in produced.bodies]
    for number, offsets in enumerate(there, 1):
        body = produced.bodies[number - 1]
        if len(offsets) > 1:
            yield Violation(Rule.ACKNOWLEDGED, dump.log, f"{body[:40]!r} is there {len(offsets)} times: {offsets}")
        if not offsets and number <= produced.acked and body not in lost:
            yield Violation(Rule.ACKNOWLEDGED, dump.log, f"{body[:40]!r} was acknowledged and is not there")
        if not offsets and number <= produced.acked and body in lost and not isinstance(produced.ended, PublishRefused):
            yield Violation(Rule.ACKNOWLEDGED, dump.log, f"{body[:40]!r} was lost, and its producer was never told")
        if not offsets and any(there[number:]):
            yield Violation(Rule.SEQUENCE, dump.log, f"{body[:40]!r} is not there, and later ones are")
    order = [offsets[0] for offsets in there if offsets]
    if order != sorted(order):
        yield Violation(Rule.SEQUENCE, dump.log, f"a producer's entries stand at {order}")


def _check_follower(fleet: Fleet, dump: Dump, followed: Followed) -> Iterator[Violation]:
    for fault in followed.faults:
        yield Violation(Rule.DELIVERED, dump.log, f"{followed.name} {fault}")
    for number, story in enumerate(followed.stories, 1):
        if not fleet.ledger.failed_over:
            for event in story:
                if isinstance(event, WasReset) and event.reason is not ResetReason.TRIMMED:
                    yield Violation(Rule.DELIVERED, dump.log, f"{followed.name} was reset ({event.reason}) for nothing")
        last = number == len(followed.stories)
        due = story if last or not story else _told_in_time(dump, story)
        if not due:
            continue  # it came back, and there was nothing to tell
        trimmed = fleet.ledger.trimmed.get(followed.log, {})
        if followed.kinds is not None:
            wrong: Iterable[Violation] = _check_filtered(dump, due, followed.kinds, trimmed, complete=last)
        else:
            wrong = check_delivered(dump, _from_what_is_kept(due, trimmed), complete=last)
        for violation in wrong:
            yield Violation(
                violation.rule,
                violation.log,
                f"{followed.name}, process {number}: {violation.message}",
                violation.offset,
            )


def _told_in_time(dump: Dump, story: list[Event]) -> list[Event]:
    """Return the story of a process that was killed, less what the store lost after: nobody could tell it."""
    tags, packed = dump.tags(), {entry.offset: entry.packed.hex() for entry in dump.entries}
    told = list(story)
    while told:
        match told[-1]:
            case Given(offset, tag) if tag not in (tags.get(offset), packed.get(offset)):
                told.pop()
            case Began():  # it heard of nothing that is still there: what it remembered was told to the one before
                told.pop()
            case _:
                break
    return told


def _from_what_is_kept(story: list[Event], trimmed: Container[int]) -> list[Event]:
    """Return a story with its true beginning: the earliest entry is the first that is kept."""
    match story:
        case [Began(0), Given(first, _), *_] if all(offset in trimmed for offset in range(1, first)):
            return [Began(first - 1), *story[1:]]
    return story


def _check_filtered(
    dump: Dump, story: Iterable[Event], kinds: tuple[str, ...], trimmed: Container[int], *, complete: bool
) -> Iterator[Violation]:
    """A subscriber that asked for some kinds is given every entry of those, in order, save where a reset says so.

    One that begins at the beginning begins with what is kept.
    """
    due = {entry.offset: entry.packed.hex() for entry, record in dump.records() if record.kind in kinds}
    given: dict[int, str] = {}
    reported: set[int] = set()
    place = start = -1
    for event in story:
        match event:
            case Began(after):
                place, start = after, after if start < 0 else start
            case WasReset():
                given = {offset: packed for offset, packed in given.items() if offset <= event.at}
                place, start = event.at, min(start, event.at)
                if event.reason is ResetReason.TRIMMED:
                    reported.update(range(event.first, event.last + 1))
            case Given(offset, packed):
                if offset <= place:
                    yield Violation(Rule.DELIVERED, dump.log, f"was given {offset} after {place}", offset)
                given[offset], place = packed, offset
    for offset, packed in given.items():
        if due.get(offset) != packed:
            yield Violation(Rule.DELIVERED, dump.log, "was given what the log does not have, and never told", offset)
    upto = dump.after.offset if complete else place
    for offset in sorted(due):
        told = offset in given or offset in reported or (start == 0 and offset in trimmed)
        if start < offset <= upto and not told:
            yield Violation(Rule.DELIVERED, dump.log, f"was not given this; it began at {start}", offset)


def _check_runs(fleet: Fleet, dumps: dict[str, Dump]) -> Iterator[str]:
    """Every run that was told of is there, once for each key, and ended as was told."""
    ledger = fleet.ledger
    lost = {path for path, gone in ledger.lost.items() if gone}
    keys: dict[str, str] = {}
    for path, dump in dumps.items():
        if path.startswith("run/"):
            key = read_control(Submitted, next(iter(dump.records()))[1].body).key or ""
            if key in keys:
                yield f"key {key} has two runs: {keys[key]} and {path}"
            keys[key] = path
    for run, code in ledger.missing.items():
        if f"run/{run}" not in lost:
            yield f"run/{run} was refused with {code}"
    for key, runs in ledger.runs.items():
        if len({run for run in runs if f"run/{run}" not in lost}) > 1:
            yield f"key {key} gave {runs}"
        for run in sorted(set(runs)):
            path = f"run/{run}"
            if path not in dumps and path not in lost:
                yield f"{path} was submitted, and is not there"
            told = ledger.results.get(run)
            if (
                told is not None
                and path in dumps
                and path not in lost
                and meta_of(fleet.server.data, path)["state"] != told
            ):
                yield f"{path} is {meta_of(fleet.server.data, path)['state']}, its result was {told} ({key})"


def _indices(fleet: Fleet) -> Iterator[str]:
    """Nothing is leased, held, queued or timed once every run is over."""
    for key, members in fleet.server.data.sorted_sets.items():
        if members and any(part in key for part in (":leases", ":timers", ":queue:")):
            yield f"{key} still has {sorted(members)}"
    for key, fields in fleet.server.data.hashes.items():
        if fields and ":held:" in key:
            yield f"{key} still has {sorted(fields)}"


# The end


def leftovers(fleet: Fleet) -> list[str]:
    """Return what the hubs hold in memory for nobody."""
    found: list[str] = []
    for slot in fleet.hubs:
        if slot.now is not None and slot.now.hub is not None and slot.now.machine.alive:
            found += [f"{slot.now.machine.name}: {what}" for what in _held_by(slot.now.hub)]
    return found


def _held_by(hub: Hub) -> Iterator[str]:
    services = hub.services
    counts = {
        "tails": len(services.line.tails),
        "tails unclosed": len(services.line.tails.unclosed),
        "tails warm": len(services.line.tails._warm),
        "tails dirty": len(services.line.tails._dirty),
        "connections": len(services.connections),
        "agents": len(services.agents),
        "peers": len(services.peers),
        "unidentified": services.unidentified,
        "acks to store": len(services.acks._noted),
        "queues busy": len(hub._dispatch._busy),
        "tasks": len(hub._work),
    }
    for what, count in counts.items():
        if count:
            yield f"{count} {what}"


def ended_badly(fleet: Fleet) -> list[str]:
    """Return the hubs and programs that ended with an error."""
    return fleet.faults()
