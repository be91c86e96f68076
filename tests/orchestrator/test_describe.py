"""`orchestrate describe`: what is printed adds up, and the drawing is one."""

import re
from xml.etree import ElementTree

import pytest

from models.cost import flops_per_token, parameters
from orchestrator.compose import compose_one
from tests.orchestrator.typed import refused, typed

SMALL = ("model.layers=2", "model.width=32", "model.heads=2", "tokenizer.vocab_size=300")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_model_is_told_in_shapes_counts_operations_and_bytes_and_drawn(tmp_path):
    answer = typed("describe", *SMALL, "resources.workers=2", "--svg", "model.svg")
    assert answer.code == 0, answer
    config = compose_one(SMALL)
    count = parameters(config.model, 300)
    assert answer.out.startswith(f"gpt: {count:,} parameters\n")
    rows = re.findall(r"^\S*(?:weight|bias) .*? ([\d,]+)(?:  x (\d+))?$", answer.out, re.M)
    told = sum(int(numbers.replace(",", "")) * int(times or 1) for numbers, times in rows)
    assert told == count
    flops = flops_per_token(config.model, 256, 300)
    said = rf"forward, counted +{flops / 3:,.0f}\nbackward +{flops * 2 / 3:,.0f}\n"
    assert re.search(said, answer.out)
    for line in (r"blocks x 2 +Block", r"\bq .*\(B, H, T, K\)", r"⊕─╯ added", r"ZeRO 3 +\d"):
        assert re.search(line, answer.out), line
    drawing = ElementTree.parse("model.svg").getroot()
    texts = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"embedding", "q", "scores, weights", "(B, H, T, T)", "logits"} <= set(texts)


def test_a_model_without_tokens_is_described_too():
    answer = typed("describe", "stage=classify")
    assert answer.code == 0, answer
    assert "features" in answer.out
    assert "floating-point operations per sample" in answer.out
    answer = typed("describe", "stage=classify", "model=mlp_by_hand")
    assert "fp32 in numpy" in answer.out
    assert "ZeRO" not in answer.out, "no engine carries it out"
    assert "try stage=classify" in refused("describe", "model=mlp_by_hand")
    assert "try stage=embed" in refused("describe", "model=skipgram")


def test_a_role_and_a_folder_that_are_not_there_are_refused():
    assert "this job has model" in refused("describe", *SMALL, "--role", "critic")
    assert "there is no folder" in refused("describe", *SMALL, "--svg", "nowhere/a.svg")
