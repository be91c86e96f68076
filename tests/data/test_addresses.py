import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.addresses import HIDDEN, hide, public, secrets_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/key.jsonl", "s3://bucket/key.jsonl"),
        ("https://u:p@host/a?b=c", "https://[redacted]@host/a?b=[redacted]"),
        (
            "said 'https://u@h/a?b' and more",
            "said 'https://[redacted]@h/a?[redacted]' and more",
        ),
        (
            "http://h/x?page=3&sig=Ab%2Bc&download=true",
            "http://h/x?page=3&sig=[redacted]&download=true",
        ),
        ("http://h/f#access_token=zz", "http://h/f#access_token=[redacted]"),
        ("postgresql://u:p@ss@host/db", "postgresql://[redacted]@host/db"),
        ("postgresql://u:p/w#?@host/db", "postgresql://[redacted]@host/db"),
        ("http://h:5000/x@y#/runs/1", "http://h:5000/x@y#/runs/1"),
        ("{a: {path: 'http://u:p@h/x?s=q'}, b: 1}", None),
    ],
)
def test_of_an_address_what_may_be_a_secret_is_hidden_and_nothing_else(text, shown):
    expected = shown or "{a: {path: 'http://[redacted]@h/x?s=[redacted]'}, b: 1}"
    assert hide(text) == expected
    assert hide(expected) == expected, "hiding twice is hiding once"


LETTERS = string.ascii_letters + string.digits


@given(
    name=st.text(LETTERS + "-_", min_size=1, max_size=12),
    secret=st.text(LETTERS + "+/=@:", min_size=12, max_size=40),
    where=st.sampled_from(["user", "query", "last", "alone", "fragment"]),
)
def test_no_signature_survives_whatever_its_parameter_is_called(name, secret, where):
    secret = f"a1{secret}"
    written = quote(secret, safe="")
    address = {
        "user": f"s3://{name}:{written}@host/a",
        "query": f"https://host/a?{name}={written}&page=2",
        "last": f"https://host/a?page=2&{name}={written}",
        "alone": f"https://host/a?{written}",
        "fragment": f"https://host/a#{name}={written}",
    }[where]
    shown = hide(f"reading {address} of user")
    assert written not in shown
    assert HIDDEN in shown
    assert {written, secret} <= secrets_in(address)


def test_a_page_to_follow_has_neither_user_nor_query():
    assert public("https://u:p@host/mlflow/?token=abc") == "https://host/mlflow"
