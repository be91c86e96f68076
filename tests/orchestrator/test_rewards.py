"""Rewards that a function computes, against cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stages.rewards import RULES

ASKED = "os.getpid: Return the process id. What does getpid do?"


@pytest.mark.parametrize(
    ("rule", "answer", "reference", "reward"),
    [
        ("exact", " os \n", "os", 1),
        ("exact", "os.", "os", 0),
        ("contains", "It is in os, I think", "os", 1),
        ("contains", "sys", "os", 0),
        ("word_f1", "Return the id", "Return the process id.", 6 / 7),
        ("word_f1", "the the the", "the process", 2 / 5),  # a word counts as often as both have it
        ("word_f1", "nothing", "os", 0),
        ("full_stop", "Return the id", "Return the process id.", 3 / 7),
        ("full_stop", "Return the id. ", "Return the process id.", 6 / 7),
        ("full_stop", "nothing.", "os", 0),
        ("from_prompt", "Return the Process number", "", 3 / 4),
        ("length", "one two", "one two three four", 1 / 2),
        ("length", "one two three four", "one two", 1 / 2),
        ("no_repetition", "the id, the ID", "", 1 / 2),
        ("sentence", "Return the process id.", "", 1),
        ("sentence", "return the process id.", "", 0),
        ("sentence", "Return. The id.", "", 0),
        ("closed", 'f(a[, "b"]) is `{x}`', "", 1),
        ("closed", "in range [y1, y2)", "", 0),
        ("closed", "f(a", "", 0),
        ("closed", "a)", "", 0),
        ("whole", "os.path", "", 1),
        ("whole", "f(a, b=1)", "", 1),
        ("whole", "Return e.g. the id.", "", 1),
        ("whole", "return the id.", "", 0),
        ("whole", "f(a) -> value", "", 0),
        ("whole", "Return\nthe id.", "", 0),
    ],
)
def test_a_rule_gives_what_its_definition_says(rule, answer, reference, reward):
    assert RULES[rule](ASKED, answer, reference) == pytest.approx(reward)


@given(st.sampled_from(sorted(RULES)), st.text(), st.text(), st.text())
def test_every_reward_lies_between_0_and_1_and_is_0_for_no_word(rule, prompt, answer, reference):
    assert 0 <= RULES[rule](prompt, answer, reference) <= 1
    assert RULES[rule](prompt, " \n.", reference) == 0
