"""What each module of the protocol makes public. A name that comes or goes is a decision, made here too."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import protocol

PUBLIC = {
    "address": """
        is_loopback
    """,
    "agent_story": """
        Connected Cordoned Disconnected Drained Draining Superseded
    """,
    "artifacts": """
        ARTIFACTS_MAX CHUNK CHUNK_BYTES NAME_BYTES_MAX Artifact ArtifactOpen ArtifactOpened ArtifactPlace Attached
        check_artifact_name chunk_bytes chunk_count
    """,
    "backoff": """
        RECONNECT_CAP_MS RECONNECT_FIRST_MS backoff_ms
    """,
    "children": """
        Child ChildKey children_after
    """,
    "codec": """
        decode encode encode_entries pack_record pack_records pack_script_arguments pack_value unpack_record
        unpack_script_reply unpack_value
    """,
    "codes": """
        TERMINAL_FROM CloseCode ErrorCode explain is_terminal
    """,
    "control": """
        COMMANDS CONTROL PACKED_FIELDS AttemptLost Call Cancel Cancelled Checkpoint Claimed Connected Control Cordoned
        Dead Disconnected Drained Draining Errored Expired Failed Kind Marker MarkerOp Progress Refusals Released
        Retry RunError Submitted Succeeded Superseded TimedOut Writer is_control pack_control read_control
    """,
    "conversation": """
        CANCEL_ID QUERIES_AT_ONCE_MAX QUERY_ARGS_BYTES_MAX QUERY_MS QUERY_MS_MAX QUERY_VALUE_BYTES_MAX QUESTIONS_MAX
        STEERS_MAX STEER_BYTES_MAX TIMEOUT Answered Asked QuestionKind Received RunAnswer RunAnswered RunQueried
        RunQuery RunSteer RunSteering Steer SteerStatus Steered Suspended answer_id
    """,
    "effects": """
        Deliver Fail SendHeartbeat
    """,
    "entry": """
        Entry Position Record Tag UInt chain first_tag next_tag origin
    """,
    "errors": """
        FleetlineError InvalidLabel InvalidName InvalidSelector LocalProtocolError ProtocolError RemoteProtocolError
        RequestError misfit
    """,
    "family": """
        CHILDREN_MAX CHILDREN_OPEN_MAX ChildCancel ChildEnded ChildRun Continue Continued Spawn check_spawn
    """,
    "frames": """
        FRAMES Ack Assign AttemptClaim AttemptVerdict Bye Digest Entries Error Fault Frame Goaway HandlerSpec
        Heartbeat HeldAttempt Hello Identify Lost Nack Name Part Probe Proof Puback Publish Query Ready Recover Refresh
        Refreshed Release ReleaseReason Reply Request Reset ResetReason Response Resumption Role Span Start Subscribe
        Subscribed SubscriptionVerdict Tags UInt Unsubscribe Verdict Window WireRecover
    """,
    "ids": """
        PARTITIONS LogKind LogName check_name make_run_id partition_of queue_partition run_made_ms run_of
    """,
    "limits": """
        ARRAYS_MAX DEFAULT_HANDSHAKE_MS DEFAULT_LIMITS ITEMS_MAX KEPT_TAGS_MAX MAPS_MAX MESSAGE_FRAMES_MAX NESTING_MAX
        RATE_BURST_S UNIDENTIFIED_BYTES_MAX Limits
    """,
    "proof": """
        FINGERPRINT_CHARS PROOF_LABEL fingerprint proof_bytes
    """,
    "readable": """
        READABLE_DEPTH_MAX entry_object json_line readable readable_body
    """,
    "refusals": """
        AUDIT_TOPIC Refusals What
    """,
    "requests": """
        METHODS AgentChange AgentDrain AgentGet AgentInfo AgentList AgentListed AgentSend AgentStanding Bucket
        DeadLetters KeyChange KeyInfo KeyList KeyListed LogGet LogInfo LogList LogListed LogRead LogReadPage Method
        PeerKey Place ProducerOpen ProducerOpened QueueDead QueueGet QueueInfo QueueList QueueListed QueuePurge
        QueuePurged QueueRetried QueueRetry QueueSet Rate RefusedKey RunAnswer RunAnswered RunCancel RunCancelled
        RunGet RunInfo RunList RunListed RunRetry RunSteer RunSteering RunSubmit RunSubmitted RunWait RunWaited
        Share never_starts
    """,
    "output": """
        OUTPUT_ENTRY_BYTES_MAX PIECE_BYTES_MAX STDERR STDOUT STREAMS WRITE_OVERHEAD_BYTES Piece Written check_stream
        output_of pieces written_in
    """,
    "requests_agents": """
        LIST_MAX AgentChange AgentDrain AgentGet AgentInfo AgentList AgentListed AgentSend AgentStanding
    """,
    "requests_keys": """
        KeyChange KeyList KeyListed PeerKey RefusedKey
    """,
    "requests_queues": """
        BURST_MAX RATE_PER_MS_MAX Bucket ConcurrencyKey KeyInfo QueueDead QueueGet QueueInfo QueueList
        QueueListed QueuePurge QueuePurged QueueRetried QueueRetry QueueSet Rate Share
    """,
    "requests_tokens": """
        RevokedList RevokedListed RevokedMark TokenCheck TokenChecked TokenId TokenRevoke TokenRevoked TokenUnrevoke
        TokenUnrevoked
    """,
    "run": """
        FINAL TRANSITIONS BrokenLog RunState RunView apply fold timeout_error
    """,
    "run_error": """
        RunError
    """,
    "schedules": """
        CRON_CHARS_MAX SCHEDULES_MAX TIMEZONE_CHARS_MAX UPCOMING_MAX Missed ScheduleAdd ScheduleGet ScheduleInfo
        ScheduleList ScheduleListed ScheduleRemove ScheduleRemoved ScheduleSet
    """,
    "selector": """
        LABELS_MAX SELECTOR_CHARS_MAX Requirement Selector canonical check_labels parse_selector selector_of
    """,
    "session": """
        STEPS Phase Session Side
    """,
    "talk": """
        Command Message MessageState Question QuestionState Talk talk_after
    """,
    "version": """
        SUBPROTOCOL VERSION
    """,
    "window": """
        Cursor Mismatch SendWindow
    """,
}


def test_every_module_is_listed() -> None:
    assert {info.name for info in pkgutil.iter_modules(protocol.__path__)} == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_is_what_is_listed(name: str) -> None:
    module = importlib.import_module(f"protocol.{name}")
    assert list(module.__all__) == PUBLIC[name].split()
    assert not [public for public in module.__all__ if not hasattr(module, public)]
