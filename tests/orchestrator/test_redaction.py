import pytest

from orchestrator.record.redaction import Redactor, flatten, is_secret


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "hub.token",
        "HF_TOKEN",
        "apiKey",
        "api_key",
        "db.password",
        "secret_id",
        "AWS_SECRET",
    ],
)
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["tokenizer", "model.num_key_value_heads", "pad_token", "data.text_key", "monkey", "steps"],
)
def test_names_that_only_resemble_secrets_are_let_through(name):
    assert not is_secret(name)


def test_secrets_are_hidden_wherever_they_turn_up():
    redact = Redactor({"hub": {"token": "abcdefghij"}, "max_tokens": 10}).text
    assert redact("x abcdefghij y") == "x [redacted] y"
    assert redact('--api-key=zzz token: \'yyy\' "password": "xxx"') == (
        '--api-key=[redacted] token: \'[redacted]\' "password": "[redacted]"'
    )
    assert redact("https://u:p@h/x?token=q&a=1") == "https://[redacted]@h/x?token=[redacted]&a=1"
    assert redact("max_tokens=10 tokens: 3e5 key: null") == "max_tokens=10 tokens: 3e5 key: null"


def test_flatten_keeps_lists_and_empty_sections_as_values():
    assert flatten({"a": {"b": [1, 2], "c": {}}, "d": None}) == {
        "a.b": [1, 2],
        "a.c": {},
        "d": None,
    }
