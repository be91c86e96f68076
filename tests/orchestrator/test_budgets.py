from dataclasses import replace

import pytest

from orchestrator.compose import compose_one
from orchestrator.config import BUDGETS, RecoveryConfig
from orchestrator.job.budgets import Budgets
from orchestrator.job.failures import Explanation

LOST = Explanation("worker_lost", 1, "a", "was killed by SIGKILL", "find who sent the signal")


def restarts(budgets, failure, step=7, from_step=5):
    """How often a failure that comes back at once is met by a restart."""
    number = 0
    while budgets.charge(failure, step, from_step) is not None:
        number += 1
    return number


@pytest.mark.parametrize("cause", BUDGETS)
def test_a_failure_that_comes_back_at_once_is_met_as_often_as_its_class_is_granted(cause):
    many = RecoveryConfig(max_restarts=1000)
    assert restarts(Budgets(many), replace(LOST, failure=cause)) == BUDGETS[cause].restarts
    none = RecoveryConfig(max_restarts=0)
    assert restarts(Budgets(none), replace(LOST, failure=cause)) == 0


def test_a_budget_by_name_counts_instead_of_the_built_in_one_and_all_together_are_bounded():
    config = RecoveryConfig(max_restarts=3, budgets={"worker_lost": 2, "disk": 2})
    budgets = Budgets(config)
    assert restarts(budgets, LOST) == 2
    assert restarts(budgets, replace(LOST, failure="disk")) == 1, "of three in all"


def test_a_new_checkpoint_refills_the_budgets():
    budgets = Budgets(RecoveryConfig(budgets={"worker_lost": 2}))
    assert [restarts(budgets, LOST, step + 2, step) for step in (0, 5, 10)] == [2, 2, 2]
    assert restarts(budgets, LOST, 12, 10) == 0


def test_an_error_of_the_code_ends_the_run_at_once_before_a_step_and_when_it_comes_again():
    wrong = replace(LOST, failure="user_error", message="failed: KeyError: x")
    generous = RecoveryConfig(budgets={"user_error": 5})
    assert Budgets(generous).charge(wrong, 5, 5) is None
    budgets = Budgets(generous)
    assert budgets.charge(wrong, 7, 5) == 0
    assert budgets.charge(wrong, 7, 5) is None, "the same at the same step"
    assert budgets.charge(wrong, 8, 5) == 0


def test_waits_double_up_to_the_longest():
    budgets = Budgets(RecoveryConfig(longest_wait_seconds=30))
    slow = replace(LOST, failure="storage")
    assert [budgets.charge(slow, 7, 5) for _ in range(4)] == [5, 10, 20, 30]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recovery.max_restarts=-1"], "recovery.max_restarts=-1 must be at least 0"),
        (["recovery.budgets={worker_lots: 1}"], "no class of failure; did you mean worker_lost"),
        (["recovery.budgets={hang: -1}"], "recovery.budgets.hang=-1 must be at least 0"),
        (["recovery=none", "recovery.budgets={hang: 1}"], "restarts nothing; try recovery=auto"),
        (["resources=inline", "recovery.max_restarts=3"], "launcher=inline restarts nothing"),
    ],
)
def test_what_recovery_cannot_do_is_refused_with_what_to_type(words, said):
    with pytest.raises(ValueError, match="recovery") as caught:
        compose_one(words)
    assert said in str(caught.value)
