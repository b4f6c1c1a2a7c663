"""What to do about a run's artifacts: pure proposals of commits, as in `orchestrator.core.runs`.

An artifact lies in its run's partition, so one commit can write its log and be guarded on the run: that the attempt
is still its session's. The run's meta has a field for each; an artifact counts when the field has its digest, which
it is given in the commit of `$attached`, guarded on the artifact's log having all its chunks.

Specification: docs/protocol.md, section "Artifacts".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.meta_artifacts import TOTAL, MetaArtifact
from orchestrator.core.run_meta import RunMeta, as_read
from orchestrator.core.runs import Ids
from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Append, Commit, Guard, HashDelete, HashSet, Op, ProducerClaim
from orchestrator.store.producer import ProducerRecord
from protocol.artifacts import (
    ARTIFACTS_MAX,
    CHUNK,
    ArtifactOpen,
    Attached,
    check_artifact_name,
    chunk_bytes,
    chunk_count,
)
from protocol.codec import pack_value, unpack_value
from protocol.codes import ErrorCode
from protocol.control import Kind, read_control
from protocol.errors import RequestError
from protocol.frames import Publish
from protocol.ids import LogName, partition_of
from protocol.limits import Limits
from protocol.run import RunState

__all__ = [
    "Attaching",
    "abandoned",
    "append",
    "artifact_logs",
    "attached_in",
    "attaching",
    "check_chunks",
    "known",
    "open_artifact",
]

Entries = Sequence[tuple[str, bytes, int | None, int | None]]


@dataclass(frozen=True, slots=True)
class Attaching:
    """What comes with a frame that attaches: what must be so, and what changes."""

    guards: tuple[Guard, ...]
    ops: tuple[Op, ...]


def artifact_logs(meta: RunMeta) -> tuple[LogName, ...]:
    """Return the logs of a run's artifacts, finished or not: they go when the run goes."""
    return tuple(each.log(meta.log) for each in meta.artifacts)


def known(meta: RunMeta, attempt: int, number: int) -> MetaArtifact | None:
    """Return an artifact that was opened."""
    return next((each for each in meta.artifacts if (each.attempt, each.number) == (attempt, number)), None)


def abandoned(meta: RunMeta) -> tuple[MetaArtifact, ...]:
    """Return the artifacts that earlier attempts began and did not finish: nobody can."""
    return tuple(each for each in meta.artifacts if each.sha256 is None and each.attempt < meta.attempt)


def open_artifact(
    ids: Ids, meta: RunMeta, session: str, asked: ArtifactOpen, limits: Limits, store_ms: int
) -> Commit | None:
    """Propose to begin an artifact, and to forget those that were abandoned. None where it was begun before.

    Raises:
        RequestError: the attempt is not this session's, the name is none, or a limit is reached.
    """
    if (meta.fence, meta.attempt, meta.session, meta.state) != (asked.fence, asked.attempt, session, RunState.RUNNING):
        raise RequestError(ErrorCode.FENCED, f"attempt {asked.attempt} of run {meta.log.name} is not this session's")
    artifact = MetaArtifact(asked.attempt, asked.number, asked.size, None, _name(asked.name))
    before = known(meta, asked.attempt, asked.number)
    if before is not None:
        if replace(before, sha256=None) != artifact:
            message = f"artifact {asked.number} of this attempt is {before.name!r}, of {before.size} bytes"
            raise RequestError(ErrorCode.INVALID_PARAMS, message)
        return None
    over = abandoned(meta)
    kept = [each for each in meta.artifacts if each not in over]
    total = sum(each.size for each in kept) + asked.size
    _check_limits(artifact, len(kept), total, limits)
    log, key = artifact.log(meta.log), keys.meta(meta.log)
    total_before = meta.artifact_bytes
    record = ProducerRecord(fence=meta.fence, ts_ms=store_ms).encode()
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(
            *meta.unchanged(),
            Guard(key, TOTAL, ABSENT if total_before is None else str(total_before)),
            Guard(key, artifact.field, ABSENT),
        ),
        appends=(Append(log, (), ids.epoch),),
        ops=(
            *((HashDelete(key, tuple(each.field for each in over)),) if over else ()),
            HashSet(key, {artifact.field: artifact.encode(), TOTAL: str(total)}),
            HashSet(keys.producers(log), {f"attempt/{asked.attempt}": record}),
        ),
    )


def check_chunks(artifact: MetaArtifact, frame: Publish) -> None:
    """Do nothing where a frame has chunks that this artifact has at these numbers.

    Raises:
        RequestError: `invalid_entry`, where it has not.
    """
    for seq, (kind, body, _, _) in enumerate(frame.entries, frame.seq):
        size = chunk_bytes(artifact.size, seq)
        if kind != CHUNK or not size or not _is_chunk(body, size):
            message = f"entry {seq} of artifact {artifact.name!r} is not its chunk of {size} bytes"
            raise RequestError(ErrorCode.INVALID_ENTRY, message)


def append(
    ids: Ids, run: LogName, session: str, log: LogName, packed: tuple[bytes, ...], claim: ProducerClaim
) -> Commit:
    """Propose chunks of an artifact, while the attempt is its session's."""
    guards = as_read(run, claim.fence, RunState.RUNNING, session)
    return Commit(id=ids.commit, partition=partition_of(log), guards=guards, appends=(Append(log, packed, "", claim),))


def attached_in(entries: Entries) -> tuple[Attached, ...]:
    """Return what the entries of a publish attach, which were checked."""
    return tuple(read_control(Attached, body) for kind, body, _, _ in entries if kind == Kind.ATTACHED)


def attaching(meta: RunMeta, attached: Sequence[Attached]) -> Attaching:
    """Decide what comes with entries that attach.

    Raises:
        RequestError: `invalid_entry`, where no such artifact was opened by this attempt.
    """
    key, opened = keys.meta(meta.log), {each.log(meta.log).path: each for each in meta.artifacts}
    guards: list[Guard] = []
    fields: dict[str, str] = {}
    for said in attached:
        artifact = opened.get(said.log)
        if artifact is None or (artifact.attempt, artifact.name, artifact.size) != (
            meta.attempt, said.name, said.size,
        ):  # fmt: skip
            message = f"this attempt opened no artifact {said.name[:160]!r} of {said.size} bytes as {said.log}"
            raise RequestError(ErrorCode.INVALID_ENTRY, message)
        guards.append(Guard(keys.meta(artifact.log(meta.log)), "head", str(chunk_count(artifact.size))))
        fields[artifact.field] = replace(artifact, sha256=said.sha256).encode()
    return Attaching(tuple(guards), (HashSet(key, fields),))


def _name(name: str) -> str:
    try:
        return check_artifact_name(name)
    except ValueError as fault:
        raise RequestError(ErrorCode.INVALID_PARAMS, str(fault)) from None


def _check_limits(artifact: MetaArtifact, kept: int, total: int, limits: Limits) -> None:
    if artifact.size > limits.artifact_bytes_max:
        message = f"{artifact.name!r} has {artifact.size} bytes; an artifact has {limits.artifact_bytes_max} at most"
    elif total > limits.run_artifacts_bytes_max:
        message = (
            f"with {artifact.name!r} the run's artifacts have {total} bytes; "
            f"together they have {limits.run_artifacts_bytes_max} at most"
        )
    elif kept >= ARTIFACTS_MAX:
        message = f"the run has {kept} artifacts, and may have no more"
    else:
        return
    raise RequestError(ErrorCode.LIMIT_REACHED, message)


def _is_chunk(body: bytes, size: int) -> bool:
    if not size <= len(body) <= size + len(pack_value(bytes(0))) + 4:
        return False
    try:
        value = unpack_value(body)
    except ValueError:
        return False
    return isinstance(value, bytes) and len(value) == size
