import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.compose import grammar, refusal
from orchestrator.compose.composer import Composer
from orchestrator.compose.jobs import composed


@pytest.fixture(scope="module")
def composer():
    with Composer() as ready:
        yield ready


TEXTS = ("8e10", "1_000", "true", "1e5", "007", "~/a", "zoë #1/a=b", "https://h/x?sig=a%2Fb")


@pytest.mark.parametrize("text", TEXTS)
def test_a_setting_that_is_a_text_keeps_what_was_typed(composer, text):
    assert composed(composer, [f"tracking.name={text}"]).tracking.name == text


def test_texts_in_lists_mixtures_and_roles_keep_their_spelling_and_numbers_are_numbers(composer):
    found = composed(
        composer,
        [
            "stage.prompts=[1e5, true, null x]",
            "data.datasets={8e10: {path: 1e3, weight: 1_000}}",
            "data.datasets.1_0.path=off",
            "data.contract.columns.1e5=integer",
            "data.filters=[{name: length, min: 1_0}]",
            "roles.model.model={weights: 1e5, width: 32}",
            "roles.model.optim.learning_rate=1e-4",
            "stage.steps=1_000",
        ],
    )
    assert found.stage.prompts == ["1e5", "true", "null x"]
    assert found.stage.steps == 1000
    assert list(found.data.datasets) == ["8e10", "1_0"]
    assert (found.data.datasets["8e10"].path, found.data.datasets["8e10"].weight) == ("1e3", 1000)
    assert found.data.datasets["1_0"].path == "off"
    assert found.data.contract.columns == {"1e5": "integer"}
    assert found.data.filters == [{"name": "length", "min": 10}]
    assert found.roles.model.model == {"weights": "1e5", "width": 32}
    assert found.roles.model.optim == {"learning_rate": 1e-4}


@pytest.mark.parametrize("value", ["a,b", "'q\"", "[x", "{a: 1}", "${oc.env:HOME}", "ü\t~\\"])
def test_a_variable_may_hold_any_characters(composer, monkeypatch, value):
    monkeypatch.setenv("ANYTHING", value)
    assert composed(composer, ["data.path=${oc.env:ANYTHING}/~x"]).data.path == f"{value}/~x"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
@settings(deadline=None, max_examples=20)
def test_what_a_message_says_to_paste_gives_the_text_that_was_meant(text):
    pasted = shlex.split(refusal.as_text("tracking.name", text))
    (word,) = grammar.read(*pasted, None)
    assert (word.name, word.value) == ("tracking.name", text)


def test_a_sweep_has_every_value_as_it_was_typed_and_as_it_can_be_typed_again(composer):
    def each(word):
        return [(w.typed.partition("=")[2], w.value) for w in grammar.read(word, composer.loader)]

    assert each("tracking.name=8e10,~/b") == [("8e10", "8e10"), ("~/b", "~/b")]
    assert each("tracking.name=8e10,'a, b'") == [("8e10", "8e10"), ("'a, b'", "a, b")]
    assert each("stage.steps=range(1,4)") == [("1", 1), ("2", 2), ("3", 3)]
    assert each("model=glob(llama*)") == [("llama_1b", "llama_1b"), ("llama_8b", "llama_8b")]
    assert each("stage.prompts=[a,b],[c]") == [("[a,b]", ["a", "b"]), ("[c]", ["c"])]
    assert each("seed=choice(3)") == [("choice(3)", "3")]
