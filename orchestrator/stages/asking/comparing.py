"""Answers compared by whoever is the judge of a stage."""

from collections.abc import Callable, Sequence

from orchestrator.config import JobConfig
from orchestrator.stages.asking.answers import ask_all
from orchestrator.stages.asking.driving import Found, reached
from orchestrator.stages.asking.items import Item
from orchestrator.stages.asking.section import JudgeConfig
from orchestrator.stages.asking.spending import Spent
from orchestrator.stages.asking.verdicts import (
    Verdict,
    answers_of,
    by_rewards,
    by_rule,
    questions,
    verdicts,
)
from orchestrator.stages.rewards import RULES
from orchestrator.stages.run import Run


def compare(
    items: Sequence[Item],
    judge: Found,
    criterion: str,
    config: JobConfig,
    run: Run,
    spent: Spent,
    ready: Callable[[], None] = lambda: None,
) -> list[Verdict]:
    """The verdict on each pair. Every rank calls it.

    Args:
        items: pairs.
        judge: a rule, a model of this machine or an endpoint.
        criterion: what one that is asked in words is to go by.
        config: of the job.
        run: of this rank.
        spent: counts what was asked for.
        ready: called when the judge can be asked.
    """
    assert isinstance(judge.config, JudgeConfig)
    if judge.config.rule is not None:
        ready()
        return by_rule(items, RULES[judge.config.rule])
    asked = reached(judge, config, run)
    ready()
    if judge.tells_rewards:
        requests = [one for item in items for one in answers_of(item)]
        return by_rewards(items, ask_all(asked, requests, run, spent))
    requests = [one for item in items for one in questions(item, criterion)]
    return verdicts(items, ask_all(asked, requests, run, spent))
