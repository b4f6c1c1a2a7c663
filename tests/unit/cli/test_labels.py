"""Labels of an agent are checked where they are said, by the rule that selectors keep to."""

from __future__ import annotations

import pytest

from agent import Agent
from orchestrator.cli.agents import AgentFlags
from protocol.errors import InvalidLabel
from protocol.selector import LABELS_MAX


def test_an_agent_refuses_labels_that_no_run_could_ask_for() -> None:
    assert Agent("a", labels={"gpu": "h200", "ssd": "yes"}).labels == {"gpu": "h200", "ssd": "yes"}
    with pytest.raises(InvalidLabel, match="'two words' is not a value of the label 'gpu'"):
        Agent("a", labels={"gpu": "two words"})


def test_labels_of_the_command_line_are_added_up_to_the_limit() -> None:
    agent = Agent("a", labels={f"l{number}": "x" for number in range(LABELS_MAX - 1)})
    AgentFlags(labels={"l0": "y", "more": "x"}).apply(agent)
    assert (agent.labels["l0"], len(agent.labels)) == ("y", LABELS_MAX)
    with pytest.raises(InvalidLabel, match="65 labels; an agent has at most 64"):
        AgentFlags(labels={"still": "x"}).apply(agent)
