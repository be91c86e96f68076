import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.filters.personal import KINDS, Personal, find_personal, redact, shift
from data.filters.rules import rule_of
from data.records import Record

# Numbers that standards and payment networks publish as examples.
VALID = [
    ("email", "jane.doe+list@mail.example.co.uk"),
    ("email", "a@b.de"),
    ("iban", "GB82 WEST 1234 5698 7654 32"),  # ISO 13616
    ("iban", "DE89370400440532013000"),
    ("iban", "FR14 2004 1010 0505 0001 3M02 606"),
    ("iban", "NO9386011117947"),
    ("credit_card", "4111 1111 1111 1111"),
    ("credit_card", "378282246310005"),
    ("credit_card", "5555-5555-5555-4444"),
    ("credit_card", "2223003122003222"),
    ("credit_card", "30569309025904"),
    ("ssn", "536-90-4399"),
    ("ipv4", "8.8.8.8"),
    ("ipv6", "2001:4860:4860::8888"),
    ("ipv6", "2606:4700:4700:0:0:0:0:1111"),
    ("phone", "+49 30 123456"),
    ("phone", "+1 (415) 555-2671"),
    ("phone", "+442079460958"),
    ("phone", "(555) 123-4567"),
    ("phone", "555-123-4567"),
    ("phone", "1-800-555-0199"),
]
INNOCENT = [
    "GB82 WEST 1234 5698 7654 33",  # wrong check digits
    "DE8937040044053201300",  # a digit short
    "4111 1111 1111 1112",  # fails Luhn
    "1234567812345670",  # passes Luhn, of no network
    "000-12-3456 219-09-9999 666-12-3456 912-34-5678 123-00-4567 123-45-0000",
    "127.0.0.1 192.168.1.1 10.0.0.1 0.0.0.0 999.8.8.8 1.2.3 1.2.3.4.5",
    "::1 fe80::1 std::vector abc::def 12:34:56",
    "2024-01-02 10:20:30 1,234,567.89 3.14159265 12345678",
    "user@localhost @handle a@b",
    "x = y+12345678",
]


@pytest.mark.parametrize(("kind", "number"), VALID)
@pytest.mark.parametrize("frame", ["{}", "see {}, please.", "({})", "a:\n{}\nb"])
def test_published_examples_are_found_whole(kind, number, frame):
    text = frame.format(number)
    assert [(text[f.start : f.stop], f.kind) for f in find_personal(text)] == [(number, kind)]


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_like_personal_data_is_left(text):
    assert find_personal(text) == []


@given(st.text("0123456789", min_size=15, max_size=15))
def test_of_sixteen_digits_of_a_card_one_last_digit_in_ten_is_right(digits):
    found = [find_personal(f"4{digits[1:]}{check}", ["credit_card"]) for check in "0123456789"]
    assert sum(map(bool, found)) == 1


def test_an_iban_ends_where_its_country_says_though_capitals_follow():
    text = "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF and NO9386011117947 AB12"
    assert [text[f.start : f.stop] for f in find_personal(text, ["iban"])] == [
        "DE89 3704 0044 0532 0130 00",
        "NO9386011117947",
    ]


def test_redaction_puts_placeholders_and_counts_kinds():
    record = Record(("write to a@b.de or c@d.com, +49 30 123456",), "f.txt:1")
    verdict = Personal().judge(record)
    assert verdict.record.texts == ("write to <EMAIL> or <EMAIL>, <PHONE>",)
    assert verdict.reason is None
    assert verdict.redactions == {"email": 2, "phone": 1}
    assert "a@b.de" not in verdict.excerpt


def test_only_the_kinds_that_were_asked_for_are_redacted():
    rule = rule_of(Personal, {"kinds": ["phone"]}, "x")
    text = "a@b.de +49 30 123456"
    assert rule.judge(Record((text,), "p")).record.texts == ("a@b.de <PHONE>",)


def test_drop_leaves_the_record_out_and_does_not_show_the_data():
    rule = rule_of(Personal, {"action": "drop"}, "x")
    verdict = rule.judge(Record(("fine", "a@b.de 8.8.8.8"), "p"))
    assert verdict.reason == "email and ipv4"
    assert verdict.excerpt == "<EMAIL> <IPV4>"
    assert rule.judge(Record(("fine",), "p")).reason is None


pieces = st.lists(
    st.one_of(
        st.text(string.ascii_lowercase + " ", max_size=5).map(lambda t: f" {t} "),
        st.sampled_from([f" {number} " for _, number in VALID]),
    ),
    max_size=8,
)


@given(pieces, st.data())
def test_spans_hold_the_same_characters_after_redaction(parts, data):
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True).map(sorted))
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    found = find_personal(text)
    moved = shift(spans, found)
    # Oracle: build the redacted text character by character, each with the span that holds it.
    owner = [next((s for s in spans if s[0] <= i < s[1]), None) for i in range(len(text))]
    expected, i = [], 0
    while i < len(text):
        piece = next((f for f in found if f.start == i), None)
        if piece is None:
            expected.append((text[i], owner[i]))
            i += 1
        else:
            whole = [s for s in spans if s[0] <= piece.start and piece.stop <= s[1]]
            expected += [(c, whole[0] if whole else None) for c in piece.placeholder]
            i = piece.stop
    redacted = redact(text, found)
    assert redacted == "".join(c for c, _ in expected)
    inside = [any(a <= k < b for a, b in moved) for k in range(len(redacted))]
    assert inside == [span is not None for _, span in expected]
    assert all(0 <= a < b <= len(redacted) for a, b in moved)


def test_a_record_with_spans_per_text_keeps_them_per_text():
    texts = ("q a@b.de\nanswer", "q a@b.de\nother")
    record = Record(texts, "p", (((9, 15),), ((9, 14),)))
    changed = Personal().judge(record).record
    shown = [t[a:b] for t, ((a, b),) in zip(changed.texts, changed.spans, strict=True)]
    assert shown == ["answer", "other"]
    assert record.texts == texts


def test_a_text_of_a_million_doubtful_characters_is_searched_in_a_moment():
    # A pattern that backtracks over such runs would take hours.
    for unit in ("1 ", "a@", "2001:", "DE12 ", "+1 ", "1.", "a.", "(555"):
        find_personal(unit * (200_000 // len(unit)) + "@")


def test_every_kind_has_an_example_above():
    assert {kind for kind, _ in VALID} == set(KINDS)
