"""Who has come in and has not said who it is: how many there may be, and who makes room."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.crowd import Crowd, Guest, Tally


class Door:
    """A crowd, and who was cut off."""

    def __init__(self, guests_max: int, address_guests_max: int) -> None:
        self.crowd = Crowd(guests_max, address_guests_max)
        self.cut: list[str] = []

    def enter(self, address: str, name: str) -> Guest | None:
        return self.crowd.enter(address, lambda: self.cut.append(name))


def test_the_longest_silent_of_an_address_makes_room_for_a_newcomer_from_there() -> None:
    door = Door(10, 2)
    for name in ("a", "b"):
        assert door.enter("here", name)
    assert door.enter("there", "c")
    assert door.enter("here", "d")
    assert door.cut == ["a"]
    assert len(door.crowd) == 3


def test_the_longest_silent_of_all_makes_room_where_all_is_full() -> None:
    door = Door(2, 2)
    for name in ("a", "b", "c"):
        assert door.enter(name, name)
    assert (door.cut, len(door.crowd)) == (["a"], 2)


def test_who_has_spoken_makes_no_room_and_a_newcomer_is_refused_then() -> None:
    door = Door(10, 2)
    first, second = door.enter("here", "a"), door.enter("here", "b")
    assert first is not None
    assert second is not None
    first.heard()
    assert door.enter("here", "c")
    assert door.cut == ["b"]
    third = door.enter("here", "d")
    assert third is not None
    assert door.cut == ["b", "c"]
    third.heard()
    assert door.enter("here", "e") is None
    first.leave()
    assert door.enter("here", "f")


def test_whoever_is_known_later_counts_for_its_address_from_then_on() -> None:
    door = Door(10, 1)
    guests = [door.enter("", name) for name in "abc"]
    assert all(guests)
    for guest in guests[:2]:
        assert guest is not None
        assert guest.move("behind a proxy")
    assert (door.cut, len(door.crowd), door.crowd.addresses) == (["a"], 2, 1)
    second, third = guests[1:]
    assert second is not None
    assert third is not None
    second.heard()
    assert not third.move("behind a proxy")
    third.leave()
    assert len(door.crowd) == 1


def test_who_comes_back_makes_way_before_those_who_came_later() -> None:
    crowd, cut = Crowd(10, 3), list[str]()

    def enter(name: str) -> Guest:
        guest = crowd.enter("a", lambda: cut.append(name))
        assert guest is not None
        return guest

    early = {name: enter(name) for name in ("1", "2", "3")}
    for guest in early.values():
        guest.leave()
    late = enter("late")
    for name, guest in early.items():
        assert guest.come_back(lambda name=name: cut.append(name))  # type: ignore[misc]
    assert cut == ["1"], "the oldest of those that came before it"
    early["2"].heard()
    enter("5")
    enter("6")
    assert cut == ["1", "3", "late"]
    late.leave()
    assert len(crowd) == 3


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "heard", "leave", "back", "move"]), st.integers(0, 3), st.integers(0, 20))
)


@given(STEPS)
def test_limits_hold_whatever_happens_and_nothing_is_left_over(steps: list[tuple[str, int, int]]) -> None:
    crowd, guests = Crowd(6, 3), dict[int, Guest]()
    for number, (step, address, which) in enumerate(steps):
        if step == "enter":
            cut: Any = lambda number=number: guests.pop(number)  # noqa: E731
            guest = crowd.enter(str(address or ""), cut)
            if guest is not None:
                guests[number] = guest
        elif guests:
            chosen = sorted(guests)[which % len(guests)]
            if step == "heard":
                guests[chosen].heard()
            elif step == "leave":
                guests.pop(chosen).leave()
            elif step == "back":
                guest = guests.pop(chosen)
                guest.leave()
                if guest.come_back(guest.cut):
                    guests[chosen] = guest
            elif not guests[chosen].move(str(address + 1)):
                del guests[chosen]
        assert len(crowd) == len(guests) <= 6
    for guest in guests.values():
        guest.leave()
        guest.leave()
    assert (len(crowd), crowd.addresses) == (0, 0)


def test_a_tally_counts_each_by_itself() -> None:
    tally = Tally(2)
    assert [tally.enter(name) for name in "aaba"] == [True, True, True, False]
    tally.leave("a")
    assert tally.enter("a")
    for name in "aab":
        tally.leave(name)
    assert len(tally) == 0
