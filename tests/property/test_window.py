"""Windows and cursors under any sequence of what can happen to them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.codec import pack_record
from protocol.entry import Entry, Position, chain, next_tag, origin
from protocol.errors import RemoteProtocolError
from protocol.frames import Entries, Window
from protocol.window import Cursor, Mismatch, SendWindow

EPOCH = "0123456789abcdef"
LOG = "topic/news"


class WindowMachine(RuleBasedStateMachine):
    """A hub that sends within the window, a peer that acknowledges, and resets between."""

    def __init__(self) -> None:
        super().__init__()
        self.window = SendWindow(Window(entries=8, bytes=100), 0)
        self.open: list[tuple[int, int, int]] = []
        self.sent = self.acked = 0

    @rule(entries=st.integers(1, 8), size=st.integers(1, 200), gap=st.integers(0, 3))
    def send(self, entries: int, size: int, gap: int) -> None:
        room_entries, room_bytes = self.window.room()
        if not room_entries:
            return
        entries = min(entries, room_entries)
        size = size if not self.open and entries == 1 else min(size, room_bytes)
        self.sent += entries + gap
        self.open.append((self.sent, entries, size))
        self.window.on_sent(self.sent, entries, size)

    @rule(gap=st.integers(0, 5))
    def skip(self, gap: int) -> None:
        self.sent += gap
        self.window.on_sent(self.sent, 0, 0)

    @rule(offset=st.integers(0, 300))
    def ack(self, offset: int) -> None:
        try:
            freed = self.window.on_ack(offset)
        except RemoteProtocolError:
            assert offset > self.sent
            return
        assert offset <= self.sent
        done = [frame for frame in self.open if frame[0] <= offset]
        assert freed is bool(done)
        self.open = [frame for frame in self.open if frame not in done]
        self.acked = max(self.acked, offset)

    @precondition(lambda self: self.open)
    @rule()
    def ack_all(self) -> None:
        assert self.window.on_ack(self.sent)
        self.open, self.acked = [], self.sent
        assert self.window.room() == (8, 100)

    @rule(offset=st.integers(0, 300))
    def reset(self, offset: int) -> None:
        self.window.restart(offset)
        self.sent = self.acked = offset
        self.open = []

    @invariant()
    def the_window_is_what_is_open(self) -> None:
        self.window.validate()
        entries = 8 - sum(frame[1] for frame in self.open)
        size = 100 - sum(frame[2] for frame in self.open)
        assert self.window.room() == ((entries, size) if entries > 0 and size > 0 else (0, 0))
        assert (self.window.sent, self.window.acked) == (self.sent, self.acked)
        assert entries >= 0


TestWindow = WindowMachine.TestCase

BODIES = st.lists(st.binary(max_size=8), max_size=12)
CUTS = st.lists(st.integers(0, 12), max_size=5)


def log_of(bodies: list[bytes]) -> tuple[Entry, ...]:
    return tuple(Entry(at, 5 * at, pack_record("k", "client:a", body)) for at, body in enumerate(bodies, 1))


def tags_of(entries: tuple[Entry, ...]) -> list[str]:
    tags = [origin(EPOCH).tag]
    for entry in entries:
        tags.append(next_tag(tags[-1], *entry))
    return tags


def frames_of(entries: tuple[Entry, ...], cuts: list[int], wanted: set[int] | None = None) -> list[Entries]:
    """The log in frames that end at the cuts; of the wanted offsets only, where they are given."""
    tags, edges = tags_of(entries), sorted({0, len(entries), *(cut for cut in cuts if cut <= len(entries))})
    return [
        Entries(
            log=LOG,
            prev=prev,
            prev_tag=tags[prev],
            upto=upto,
            tag=tags[upto],
            entries=tuple(entry for entry in entries[prev:upto] if wanted is None or entry.offset in wanted),
        )
        for prev, upto in pairwise(edges)
    ]


@given(BODIES, CUTS)
def test_a_dense_cursor_is_given_the_log_however_it_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    entries = log_of(bodies)
    cursor = Cursor(origin(EPOCH))
    given_ = [entry for frame in frames_of(entries, cuts) for entry in cursor.accept(frame)]
    assert tuple(given_) == entries
    tags = tags_of(entries)
    assert cursor.position == Position(EPOCH, len(entries), tags[-1])
    assert cursor.tags_at(range(len(tags))) == tuple(tags)


@given(BODIES, CUTS, st.sets(st.integers(1, 12)))
def test_a_filtered_cursor_is_given_what_it_wants_however_it_is_cut(
    bodies: list[bytes], cuts: list[int], wanted: set[int]
) -> None:
    entries = log_of(bodies)
    cursor = Cursor(origin(EPOCH), filtered=True)
    given_ = [entry.offset for frame in frames_of(entries, cuts, wanted) for entry in cursor.accept(frame)]
    assert given_ == sorted(offset for offset in wanted if offset <= len(entries))
    assert cursor.position == Position(EPOCH, len(entries), chain(origin(EPOCH).tag, entries))


@given(BODIES.filter(bool), CUTS, st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_frames_dropped_repeated_or_reordered_never_move_a_cursor_wrongly(
    bodies: list[bytes], cuts: list[int], order: list[int]
) -> None:
    entries = log_of(bodies)
    frames = frames_of(entries, cuts)
    tags = tags_of(entries)
    cursor = Cursor(origin(EPOCH))
    taken: list[Entry] = []
    for pick in order:
        before = cursor.position
        try:
            taken += cursor.accept(frames[pick % len(frames)])
        except Mismatch:
            assert cursor.position == before
    assert tuple(taken) == entries[: len(taken)]
    assert cursor.position == Position(EPOCH, len(taken), tags[len(taken)])


@given(BODIES.filter(bool), st.data())
def test_a_history_that_parted_is_noticed_at_the_first_frame(bodies: list[bytes], data: st.DataObject) -> None:
    ours = log_of(bodies)
    at = data.draw(st.integers(0, len(ours) - 1))
    theirs = log_of([*bodies[:at], bodies[at] + b"!", *bodies[at + 1 :]])
    cursor = Cursor(Position(EPOCH, at + 1, tags_of(ours)[at + 1]))
    for frame in frames_of(theirs, [at + 1]):
        try:
            cursor.accept(frame)
        except Mismatch:
            continue
        raise AssertionError(f"{frame} was accepted")
    assert cursor.position == Position(EPOCH, at + 1, tags_of(ours)[at + 1])
