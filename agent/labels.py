"""The labels of an agent, and the one that says which version of its code it is."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.errors import InvalidLabel
from protocol.selector import check_labels

__all__ = ["VERSION_LABEL", "with_version"]

VERSION_LABEL = "version"


def with_version(labels: Mapping[str, str], version: str | None) -> dict[str, str]:
    """Return labels that an agent can have, with that of a version where there is one.

    Raises:
        InvalidLabel: one is none, or they are too many, or name another version.
    """
    if version is None:
        return check_labels(labels)
    if labels.get(VERSION_LABEL, version) != version:
        raise InvalidLabel(f"the labels say version {labels[VERSION_LABEL]!r}, and the agent {version!r}; say it once")
    return check_labels({**labels, VERSION_LABEL: version})
