"""docs/checkin-protocol.md and the code say the same."""

import json
import re
from pathlib import Path

import pytest

from provisiond.protocol import (
    STATES,
    parse_answer,
    parse_checkin,
    plan_value,
    render_answer,
    render_checkin,
)

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs/checkin-protocol.md").read_text()
VECTORS = re.findall(r"^    (\{.*\})$", DOCUMENT, re.MULTILINE)
CHECKIN, *ANSWERS = VECTORS


def test_the_checkin_of_the_document_is_one():
    assert render_checkin(parse_checkin(json.loads(CHECKIN))).decode() == CHECKIN


@pytest.mark.parametrize("text", ANSWERS)
def test_the_answers_of_the_document_are_some(text):
    assert render_answer(parse_answer(json.loads(text))).decode() == text


def test_the_document_names_every_key_and_state():
    keys = set(json.loads(CHECKIN))
    for text in ANSWERS:
        keys |= set(plan_value(parse_answer(json.loads(text)).plan)) | set(json.loads(text))
    for word in (*keys, *STATES):
        assert f"`{word}`" in DOCUMENT, word
