"""What a run's meta keeps of its artifacts: a field for each that was opened, and the bytes of all of them.

Specification: docs/protocol.md, section "Artifacts".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.artifacts import Artifact, ArtifactPlace
from protocol.ids import LogName

__all__ = ["FIELD", "TOTAL", "MetaArtifact", "attached_artifacts", "parse_artifacts"]

FIELD = "a:"
"""What the meta fields of artifacts begin with; attempt and number follow."""
TOTAL = "artifact_bytes"
"""The meta field of how many bytes all of them have together, finished or not."""

_UNFINISHED = "-"


@dataclass(frozen=True, slots=True)
class MetaArtifact:
    """An artifact of a run, as its meta has it. `sha256` is None until it is attached."""

    attempt: int
    number: int
    size: int
    sha256: str | None
    name: str

    @property
    def field(self) -> str:
        """The meta field that it stands in."""
        return f"{FIELD}{self.attempt}.{self.number}"

    def encode(self) -> str:
        """Return what `parse_artifacts` reads."""
        return f"{self.size} {self.sha256 or _UNFINISHED} {self.name}"

    def log(self, run: LogName) -> LogName:
        """The log of its chunks."""
        return ArtifactPlace(run.name, self.attempt, self.number).log(run.namespace)


def parse_artifacts(fields: Mapping[str, str]) -> tuple[MetaArtifact, ...]:
    """Return the artifacts that a run's meta has, in the order in which they were begun."""
    return tuple(
        sorted(
            (_parse(name, text) for name, text in fields.items() if name.startswith(FIELD)),
            key=lambda each: (each.attempt, each.number),
        )
    )


def attached_artifacts(run: LogName, artifacts: Iterable[MetaArtifact]) -> tuple[Artifact, ...]:
    """Return those that are whole, by name; of several of one name the one that was begun last."""
    last = {each.name: each for each in artifacts if each.sha256 is not None}
    return tuple(
        Artifact(name=name, log=each.log(run).path, size=each.size, sha256=each.sha256 or "", attempt=each.attempt)
        for name, each in sorted(last.items())
    )


def _parse(field: str, text: str) -> MetaArtifact:
    attempt, number = field[len(FIELD) :].split(".")
    size, sha256, name = text.split(" ", 2)
    return MetaArtifact(int(attempt), int(number), int(size), None if sha256 == _UNFINISHED else sha256, name)
