"""Chat templates: which tokens of a conversation the assistant says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from data import Tokenizer
from data.chat import BUILT_IN, ChatTemplate, read_template
from data.files import DataError

TALK = (
    ("system", "Be brief."),
    ("user", "One and one?"),
    ("assistant", "Two."),
    ("user", "And  one more?\n"),
    ("assistant", "Three."),
)
ROLES = ("user", "assistant")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + eos_token + '\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = (  # of earlier answers the first word alone stays, as thoughts are dropped by some
    "{% for m in messages %}{{ m.role }}: "
    "{{ m.content if loop.last or m.role == 'user' else m.content.split('.')[0] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
MIXED = (  # both kinds of white-space control, loop controls, a refusal, a bare {% generation %}
    "{%- for m in messages %}\n  {%- if m.role == 'tool' %}{{ raise_exception('no tools') }}{% "
    "endif %}\n  {%- if m.role == 'system' %}{% continue %}{% endif %}\n"
    "{{ '<|' + m.role + '|>' }}\n{%- if m.role == 'assistant' %}{% generation %}"
    "{{ m.content | trim }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content | trim }}"
    "{% endif %}\n{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([content for _, content in TALK] * 9 + [CHATML], 300)


def said(chat, messages):
    """The text of each run of tokens that the assistant says."""
    row, parts, before = chat.row(messages), [], False
    for token, own in zip(row.tokens, row.answers, strict=True):
        if own:
            parts = parts if before else [*parts, []]
            parts[-1].append(token)
        before = own
    return [chat.tokenizer.decode(part) for part in parts]


@pytest.mark.parametrize("template", [BUILT_IN, CHATML, MIXED])
def test_what_is_trained_on_is_each_answer_with_its_end_token_and_nothing_else(template, tokenizer):
    chat = ChatTemplate(template, tokenizer)
    assert said(chat, TALK) == ["Two.<|endoftext|>", "Three.<|endoftext|>"]
    row = chat.row(TALK)
    assert tokenizer.decode(row.tokens) == chat.render(TALK)
    ends = [t for t, own in zip(row.tokens, row.answers, strict=True) if own]
    assert ends.count(tokenizer.end_of_text) == 2, "one token each"


@pytest.mark.parametrize("template", [BUILT_IN, CHATML, MIXED])
@pytest.mark.parametrize("answer", [False, True])
def test_a_template_writes_what_transformers_makes_of_it(template, answer, tokenizer):
    messages = [{"role": role, "content": content} for role, content in TALK]
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    [theirs], _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=answer, **names
    )
    assert ChatTemplate(template, tokenizer).render(TALK, answer=answer) == theirs


@pytest.mark.parametrize("template", [BUILT_IN, MIXED])
def test_the_answers_are_those_that_transformers_finds_in_generation_blocks(template, tokenizer):
    messages = [{"role": role, "content": content} for role, content in TALK]
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    [text], [spans] = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **names
    )
    ours = ChatTemplate(template, tokenizer).rendered(TALK)
    assert ours == (text, [tuple(span) for span in spans])


words = st.text(st.characters(codec="utf-8", exclude_characters="\ue000\ue001"), min_size=1)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_a_question_is_encoded_the_same_with_and_without_its_answer(turns):
    talk = [(role, own) for turn in turns for role, own in zip(ROLES, turn, strict=True)]
    chat = ChatTemplate(BUILT_IN, Tokenizer.plain_bytes())
    row, prompt = chat.row(talk), chat.prompt(talk[:-1])
    assert row.tokens[: len(prompt)] == prompt
    assert row.answers[len(prompt)], "the answer begins there"
    assert said(chat, talk) == [f"{answer}<|endoftext|>" for _, answer in turns]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (FORGETFUL, "writes message 2 otherwise when others follow it"),
        (ENDLESS, "ends an answer with 'Two.</s>', and the last of it must be a special token"),
        (BUILT_IN.replace("{{ eos_token }}", ""), "write {{ eos_token }} behind the answer"),
        ("{% for m in messages %}{% generation %}a{% endgeneration %}{% endfor %}", "marks 5 ans"),
        ("{% if %}", "is no Jinja template"),
        ("{{ raise_exception('no talk') }}", "can't be filled: no talk"),
        ("{{ messages.append(1) }}", "can't be filled"),
        ("{{ ''.__class__.__mro__ }}", "can't be filled"),
    ],
)
def test_a_template_that_would_teach_something_else_is_refused(template, message, tokenizer):
    with pytest.raises(DataError) as refused:
        ChatTemplate(template, tokenizer, "stage.chat_template=own.jinja").row(TALK)
    assert str(refused.value).startswith("stage.chat_template=own.jinja")
    assert message in str(refused.value)


@pytest.mark.parametrize("mark", ["<|endoftext|>", "\ue000"])
def test_no_message_can_end_an_answer_or_begin_one(mark, tokenizer):
    with pytest.raises(DataError, match="a message of the user holds"):
        ChatTemplate(BUILT_IN, tokenizer).row([("user", f"a{mark}b"), ("assistant", "c")])


def test_a_template_is_read_from_a_file_of_its_own_or_of_a_tokenizer(tmp_path):
    (tmp_path / "own.jinja").write_text(CHATML)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    (tmp_path / "none.json").write_text("{}")
    assert read_template(tmp_path / "own.jinja") == CHATML
    assert read_template(tmp_path / "tokenizer_config.json") == CHATML
    for name in ("none.json", "gone.jinja"):
        with pytest.raises(DataError, match=name):
            read_template(tmp_path / name)
