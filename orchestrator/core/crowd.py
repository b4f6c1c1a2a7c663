"""Who has come in and has not said yet who it is: how many at once, in all and from one address.

Where there is no room for a newcomer, the one that has been silent for longest makes room: a peer says who it is as
soon as it is connected, so whoever floods the hub with silent connections displaces its own, and a peer is in between
any two of them. Who has spoken, and waits to be let in, is not displaced; where all have, the newcomer is refused.

Pure: it counts, and calls `cut` of whoever must go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

__all__ = ["Crowd", "Guest", "Tally"]


@dataclass(slots=True, eq=False)
class _Group:
    """Who has come from one address; those that were silent so far in the order in which they came.

    Those that went and came back are in a row of their own, in the order in which they came back: else they would
    stand behind newcomers, and not make way before them.
    """

    count: int = 0
    silent: dict[Guest, None] = field(default_factory=dict)
    back: dict[Guest, None] = field(default_factory=dict)

    def row(self, guest: Guest) -> dict[Guest, None]:
        """Return the row that a guest is in while it is silent."""
        return self.back if guest.is_back else self.silent

    def longest(self) -> Guest | None:
        """Return who has been silent for longest: of the first of each row the one that came first."""
        firsts = [next(iter(row)) for row in (self.silent, self.back) if row]
        return min(firsts, key=lambda guest: guest.number, default=None)


class Guest:
    """One of the crowd.

    Attributes:
        cut: ends its connection; called once, after it has left, where it makes room.
        number: those who came before it have lower ones.
        is_back: it went and came back.
    """

    __slots__ = ("_address", "_crowd", "_here", "cut", "is_back", "number")

    def __init__(self, crowd: Crowd, address: str, number: int, cut: Callable[[], object]) -> None:
        self._crowd = crowd
        self._address = address
        self._here = True
        self.cut = cut
        self.number = number
        self.is_back = False

    def heard(self) -> None:
        """It has spoken: it makes room for nobody any more."""
        if self._here:
            self._crowd.hear(self, self._address)

    def move(self, address: str) -> bool:
        """Count it for another address from now on. Returns False where there is no room for it: it has left then."""
        if not self._here or address == self._address:
            return self._here
        self.leave()
        self._here = self._crowd.take(self, address)
        self._address = address
        return self._here

    def leave(self) -> None:
        """Count it no more: it has said who it is, waits elsewhere, or is gone."""
        if self._here:
            self._here = False
            self._crowd.drop(self, self._address)

    def come_back(self, cut: Callable[[], object]) -> bool:
        """Count it again after it has left, as one that came when it did. Returns False where there is no room."""
        self.cut, self.is_back = cut, True
        self._here = self._crowd.take(self, self._address)
        return self._here


class Crowd:
    """Counts guests.

    Args:
        guests_max: at once.
        address_guests_max: from one address; those whose address nobody knows yet count only among all.
    """

    def __init__(self, guests_max: int, address_guests_max: int) -> None:
        self._guests_max = guests_max
        self._address_guests_max = address_guests_max
        self._all = _Group()
        self._by: dict[str, _Group] = {}
        self._numbers = count(1)

    def __len__(self) -> int:
        return self._all.count

    @property
    def addresses(self) -> int:
        """How many addresses are known."""
        return len(self._by)

    def enter(self, address: str, cut: Callable[[], object]) -> Guest | None:
        """Take a newcomer, from an address or from nobody knows where (""); None where there is no room for it."""
        guest = Guest(self, address, next(self._numbers), cut)
        return guest if self.take(guest, address) else None

    def take(self, guest: Guest, address: str) -> bool:
        """Count a guest, of this address. Returns False where there is no room."""
        group = self._by.get(address) if address else None
        if group is not None and group.count >= self._address_guests_max and not _make_room(group):
            return False
        if self._all.count >= self._guests_max and not _make_room(self._all):
            return False
        for each in self._groups(address):
            each.count += 1
            each.row(guest)[guest] = None
        return True

    def hear(self, guest: Guest, address: str) -> None:
        """A guest has spoken."""
        for each in self._groups(address):
            each.row(guest).pop(guest, None)

    def drop(self, guest: Guest, address: str) -> None:
        """Count a guest no more."""
        for each in self._groups(address):
            each.count -= 1
            each.row(guest).pop(guest, None)
        if address and not self._by[address].count:
            del self._by[address]

    def _groups(self, address: str) -> tuple[_Group, ...]:
        return (self._all, self._by.setdefault(address, _Group())) if address else (self._all,)


def _make_room(group: _Group) -> bool:
    longest = group.longest()
    if longest is None:
        return False
    longest.leave()
    longest.cut()
    return True


class Tally:
    """Counts what each of many has at once.

    Args:
        each_max: what one may have.
    """

    def __init__(self, each_max: int) -> None:
        self._each_max = each_max
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, name: str) -> bool:
        """Count one more. Returns False where it may not have more."""
        count = self._counts.get(name, 0)
        if count >= self._each_max:
            return False
        self._counts[name] = count + 1
        return True

    def leave(self, name: str) -> None:
        """Count one less."""
        left = self._counts[name] - 1
        if left:
            self._counts[name] = left
        else:
            del self._counts[name]
