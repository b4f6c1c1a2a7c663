"""Reads, trimming, deletion, the indices and the registry."""

from __future__ import annotations

import asyncio

from orchestrator.store import keys
from orchestrator.store.base import Page, Store
from orchestrator.store.commits import SortedAdd, SortedRemove
from protocol.entry import Entry, chain, first_tag, origin
from protocol.ids import PARTITIONS, LogKind, LogName, partition_of
from tests.support.commits import EPOCH, append, claim, commit, done, open_producer, topic, topics_of_one_partition

LOG = topic()
NOWHERE = topic("nowhere")


async def fill(store: Store, count: int, log: LogName = LOG, size: int = 4) -> list[Entry]:
    """Append entries one by one and return them."""
    for number in range(1, count + 1):
        await done(store, commit(append(log, b"%0*d" % (size, number))))
    page = await store.read(log, 0, count)
    assert page is not None
    return list(page.entries)


async def page_of(store: Store, after: int, limit: int, bytes_max: int = 1 << 20) -> Page:
    """Read a page that must be there."""
    page = await store.read(LOG, after, limit, bytes_max)
    assert page is not None
    return page


async def test_nothing_is_read_where_there_is_no_log(store: Store) -> None:
    assert await store.read(NOWHERE, 0, 10) is None
    assert await store.meta(NOWHERE) is None
    assert await store.tags(NOWHERE, [0, 1]) == [None, None]
    assert await store.trim(NOWHERE, 3) is None
    assert not await store.delete(NOWHERE)


async def test_a_field_elsewhere_is_read_beside_the_meta(store: Store) -> None:
    await done(store, commit(append(LOG, b"one")))
    await store.hash_put(keys.AGENTS, {"default/a": b"here"})

    assert await store.meta_beside(LOG, keys.AGENTS, "default/a") == (await store.meta(LOG), b"here")
    assert await store.meta_beside(LOG, keys.AGENTS, "default/b") == (await store.meta(LOG), None)
    assert await store.meta_beside(NOWHERE, keys.AGENTS, "default/a") == (None, b"here")


async def test_an_empty_log_gives_an_empty_page(store: Store) -> None:
    await done(store, commit(append(LOG)))

    page = await page_of(store, 0, 10)

    assert page == Page(origin(EPOCH), origin(EPOCH), (), 0)
    assert await store.trim(LOG, 5) == origin(EPOCH)


async def test_pages_follow_one_another_without_a_gap(store: Store) -> None:
    entries = await fill(store, 10)
    read: list[Entry] = []
    position = origin(EPOCH)
    while len(read) < 10:
        page = await page_of(store, position.offset, 3)
        assert page.before == position
        assert page.head == 10
        assert chain(page.before.tag, page.entries) == page.after.tag
        read += page.entries
        position = page.after

    assert read == entries
    assert position.offset == 10


async def test_long_logs_are_read_in_one_page_too(store: Store) -> None:
    for start in range(0, 1000, 250):
        await done(store, commit(append(LOG, *(b"%d" % n for n in range(start, start + 250)))))

    page = await page_of(store, 0, 5000)

    assert [entry.packed for entry in page.entries] == [b"%d" % n for n in range(1000)]
    assert [entry.offset for entry in page.entries] == list(range(1, 1001))
    assert chain(page.before.tag, page.entries) == page.after.tag


async def test_a_page_holds_no_more_bytes_than_asked_for(store: Store) -> None:
    await fill(store, 10, size=100)

    assert len((await page_of(store, 0, 10, bytes_max=250)).entries) == 2
    assert len((await page_of(store, 0, 10, bytes_max=300)).entries) == 3
    assert (await page_of(store, 0, 10, bytes_max=300)).after.offset == 3


async def test_a_page_holds_one_entry_however_large(store: Store) -> None:
    await fill(store, 3, size=100)

    page = await page_of(store, 1, 10, bytes_max=1)

    assert [entry.offset for entry in page.entries] == [2]


async def test_small_entries_before_a_large_one_stay_within_the_bytes(store: Store) -> None:
    await done(store, commit(append(LOG, *[b"x" * 10] * 40, b"y" * 1000, *[b"z" * 10] * 40)))

    page = await page_of(store, 0, 500, bytes_max=500)

    assert page.after.offset == 40
    assert (await page_of(store, 40, 500, bytes_max=500)).after.offset == 41
    assert (await page_of(store, 41, 500, bytes_max=500)).after.offset == 81


async def test_after_the_head_there_is_nothing(store: Store) -> None:
    await fill(store, 3)

    for after in (3, 4, 10**12):
        page = await page_of(store, after, 10)
        assert page.entries == ()
        assert page.before == page.after
        assert (page.after.offset, page.head) == (3, 3)


async def test_tags_of_entries(store: Store) -> None:
    entries = await fill(store, 5)

    tags = await store.tags(LOG, [5, 1, 3, 0, 6, 99])

    assert tags == [
        chain(first_tag(EPOCH), entries),
        chain(first_tag(EPOCH), entries[:1]),
        chain(first_tag(EPOCH), entries[:3]),
        first_tag(EPOCH),
        None,
        None,
    ]
    assert await store.tags(LOG, []) == []


async def test_more_tags_than_one_script_call_looks_up(store: Store) -> None:
    await done(store, commit(append(LOG, *[b"x"] * 200)))

    tags = await store.tags(LOG, [*range(1, 201)] * 5)

    assert len(tags) == 1000
    assert tags[:200] == tags[800:]
    assert None not in tags


async def test_trimming_drops_exactly_what_is_before(store: Store) -> None:
    entries = await fill(store, 250, size=3)

    cut = await store.trim(LOG, 102)

    assert cut is not None
    assert (cut.epoch, cut.offset, cut.tag) == (EPOCH, 101, chain(first_tag(EPOCH), entries[:101]))
    page = await page_of(store, 0, 1000)
    assert page.before == cut
    assert list(page.entries) == entries[101:]
    assert chain(page.before.tag, page.entries) == page.after.tag
    assert await store.tags(LOG, [100, 101, 102]) == [None, cut.tag, chain(cut.tag, entries[101:102])]
    assert (await page_of(store, 101, 1)).before == cut
    assert (await page_of(store, 102, 1)).entries == (entries[102],)


async def test_pages_begin_and_end_anywhere_in_what_was_appended_together(store: Store) -> None:
    for count in (3, 1, 150, 5):
        await done(store, commit(append(LOG, *(b"%d" % n for n in range(count)))))
    whole = (await page_of(store, 0, 1000)).entries
    tags = [first_tag(EPOCH), *(chain(first_tag(EPOCH), whole[:count]) for count in range(1, 160))]
    assert await store.tags(LOG, [*range(160)]) == tags

    for after in range(159):
        for limit in (1, 2, 64, 200):
            page = await page_of(store, after, limit)
            assert page.entries == whole[after : after + limit]
            assert (page.before.tag, page.after.tag) == (tags[after], tags[page.after.offset])


async def test_trimming_cuts_anywhere_in_what_was_appended_together(store: Store) -> None:
    for count in (2, 100):
        await done(store, commit(append(LOG, *(b"%d" % n for n in range(count)))))
    whole = (await page_of(store, 0, 1000)).entries

    for keep_from in (2, 3, 4, 50, 66, 67, 68, 69, 102):
        cut = await store.trim(LOG, keep_from)
        assert cut is not None
        assert (cut.offset, cut.tag) == (keep_from - 1, chain(first_tag(EPOCH), whole[: keep_from - 1]))
        page = await page_of(store, 0, 1000)
        assert (page.before, page.entries) == (cut, whole[keep_from - 1 :])
        assert await store.tags(LOG, [keep_from - 2, keep_from - 1]) == [None, cut.tag]


async def test_trimming_never_drops_the_head_and_never_goes_back(store: Store) -> None:
    entries = await fill(store, 5)
    at_head = await store.trim(LOG, 99)
    assert at_head is not None
    assert at_head.offset == 4

    assert await store.trim(LOG, 2) == at_head
    assert (await page_of(store, 0, 10)).entries == (entries[4],)
    outcome = await done(store, commit(append(LOG, b"next")))
    assert outcome.appended[0].after.offset == 6


async def test_trimming_nothing_says_where_the_log_begins(store: Store) -> None:
    await fill(store, 3)

    assert await store.trim(LOG, 1) == origin(EPOCH)
    assert await store.trim(LOG, 0) == origin(EPOCH)


async def test_a_deleted_log_is_gone_with_all_its_keys(store: Store) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"x", producer=claim(1, 1))))

    assert await store.delete(LOG)

    assert await store.read(LOG, 0, 1) is None
    assert await store.hash_all(keys.producers(LOG)) == {}
    assert await store.log_names("default", LogKind.TOPIC, 10) == []
    again = await done(store, commit(append(LOG, b"y", epoch="another")))
    assert again.appended[0].before == origin("another")


async def test_names_of_logs_by_when_they_were_made(store: Store) -> None:
    names = [f"n{number}" for number in range(12)]
    made = []
    for name in names:
        outcome = await done(store, commit(append(topic(name), b"x")))
        made.append((name, outcome.now_ms))
        await done(store, commit(append(topic(name), b"y")))
    await done(store, commit(append(LogName("default", LogKind.AGENT, "a1"), b"x")))
    await done(store, commit(append(LogName("other", LogKind.TOPIC, "n0"), b"x")))
    made.sort(key=lambda item: (item[1], item[0]), reverse=True)

    assert await store.log_names("default", LogKind.TOPIC, 100) == made
    assert await store.log_names("default", LogKind.TOPIC, 5) == made[:5]
    assert [name for name, _ in await store.log_names("default", LogKind.AGENT, 5)] == ["a1"]


async def test_names_of_logs_page_by_page(store: Store) -> None:
    logs = topics_of_one_partition(30)  # in one call, so that most are of the same millisecond
    await asyncio.gather(*(done(store, commit(append(log, b"x"))) for log in logs))
    whole = await store.log_names("default", LogKind.TOPIC, 100)
    assert len(whole) == 30
    for size in (1, 4, 29, 30, 31):
        paged: list[tuple[str, int]] = []
        page = await store.log_names("default", LogKind.TOPIC, size)
        while page:
            paged += page
            name, made_ms = page[-1]
            page = await store.log_names("default", LogKind.TOPIC, size, (made_ms, name))
        assert paged == whole
    assert await store.log_names("default", LogKind.TOPIC, 5, (whole[0][1] + 1, "")) == whole[:5]


async def test_what_is_due_in_some_partitions(store: Store) -> None:
    for partition, score in ((3, 30), (60, 10), (17, 20), (3, 99)):
        lease = SortedAdd(keys.leases(partition), f"default/r{score}", score)
        timer = SortedAdd(keys.timers(partition), f"default/t{score}", score + 5)
        await done(store, commit(ops=(lease, timer), partition=partition))

    leases, timers = await store.due(30, 10, range(PARTITIONS))

    assert leases == [(10, 60, "default/r10"), (20, 17, "default/r20"), (30, 3, "default/r30")]
    assert timers == [(15, 60, "default/t10"), (25, 17, "default/t20")]
    assert await store.due(30, 10, range(PARTITIONS), 5) == (leases, [*timers, (35, 3, "default/t30")])
    assert await store.due(200, 2, range(PARTITIONS)) == (leases[:2], timers[:2])
    assert await store.due(30, 1, {3, 17}) == (leases[1:2], timers[1:2]), "what others have is not in the way"
    assert await store.due(0, 10, range(PARTITIONS)) == ([], [])
    assert await store.due(200, 10, ()) == ([], [])


async def test_sorted_ranges(store: Store) -> None:
    key = keys.leases(1)
    adds = tuple(SortedAdd(key, member, score) for member, score in (("c", 3), ("a", 1), ("b", 1), ("d", 9)))
    await done(store, commit(ops=adds, partition=1))

    assert await store.sorted_range(key, 10) == [("a", 1), ("b", 1), ("c", 3), ("d", 9)]
    assert await store.sorted_range(key, 2) == [("a", 1), ("b", 1)]
    assert await store.sorted_range(key, 10, score_max=3) == [("a", 1), ("b", 1), ("c", 3)]
    assert await store.sorted_range("fl:{p01}:nothing", 2) == []
    await done(store, commit(ops=(SortedRemove(key, "a"),), partition=1))
    assert await store.sorted_range(key, 1) == [("b", 1)]


async def test_the_registry(store: Store) -> None:
    await store.hash_put(keys.AGENTS, {"default/a": "1", "default/b": b"\xff", "default/c": "3"})
    await store.hash_put(keys.AGENTS, {"default/a": None, "default/c": "4"})
    await store.sorted_put(keys.HUBS, "h1", 100)
    await store.sorted_put(keys.HUBS, "h2", 50)
    await store.sorted_put(keys.HUBS, "h1", None)

    assert await store.hash_all(keys.AGENTS) == {"default/b": b"\xff", "default/c": b"4"}
    assert await store.hash_get(keys.AGENTS, "default/c", "default/a") == [b"4", None]
    assert await store.hash_get(keys.AGENTS) == []
    assert await store.sorted_range(keys.HUBS, 5) == [("h2", 50)]
    await store.hash_put(keys.AGENTS, {})


async def test_reads_and_commits_of_many_tasks_at_once(store: Store) -> None:
    logs = [topic(f"many{number}") for number in range(40)]

    async def use(log: LogName) -> None:
        for number in range(5):
            await done(store, commit(append(log, b"%d" % number)))
            page = await store.read(log, number, 5)
            assert page is not None
            assert [entry.packed for entry in page.entries] == [b"%d" % number]
            assert await store.tags(log, [number + 1]) == [page.after.tag]

    await asyncio.gather(*(use(log) for log in logs))
    assert len({partition_of(log) for log in logs}) > 10
