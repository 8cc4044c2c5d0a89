"""docs/provisionctl.md and docs/nodes.md have every verb, option and attribute."""

import re
import textwrap
from pathlib import Path

import click
import pytest

from provisiond.cli import CONTROL_VERBS, control
from provisiond.foreign.formats import READERS
from provisiond.foreign.table import COLUMNS
from provisiond.nodes.attributes import ATTRIBUTES, FAMILIES
from provisiond.nodes.interchange import parse_state, render_state
from provisiond.nodes.view import CONDITIONS, FACTS

DOCS = Path(__file__).resolve().parents[3] / "docs"
ELSEWHERE = {"lab": "lab.md"}
"""Verbs that a page of their own tells of."""


def commands():
    context = click.Context(control)
    for verb in control.list_commands(context):
        command = control.get_command(context, verb)
        if isinstance(command, click.Group) and verb not in ELSEWHERE:
            for word, inner in command.commands.items():
                yield f"{verb} {word}", inner
        else:
            yield verb, command


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=lambda item: str(item)[:20])
def test_every_verb_is_documented_with_its_options(words, command):
    text = (DOCS / "provisionctl.md").read_text(encoding="utf-8")
    title = re.escape(f"provisionctl {words}")
    section = re.search(rf"^## `{title}[ `].*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"no section for provisionctl {words}"
    if words in ELSEWHERE:
        assert ELSEWHERE[words] in section[0]
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert any(f"`{option}" in section[0] for option in parameter.opts), parameter.opts


def test_nothing_is_documented_that_is_not_there():
    text = (DOCS / "provisionctl.md").read_text(encoding="utf-8")
    known = {words for words, _ in commands()} | set(CONTROL_VERBS)
    for title in re.findall(r"^## `provisionctl ([a-z ]+[a-z])", text, re.MULTILINE):
        assert title in known


def test_every_attribute_column_and_condition_is_documented():
    text = (DOCS / "nodes.md").read_text(encoding="utf-8")
    for key in ATTRIBUTES:
        assert f"\n| `{key}` |" in text, key
    for name, family in FAMILIES.items():
        for field in family.fields:
            key = f"{name}.NAME.{field}" if field else f"{name}.NAME"
            assert f"`{key}`" in text, key
    for word in (*FACTS, *CONDITIONS, *READERS, *COLUMNS):
        assert f"`{word}`" in text or word in ATTRIBUTES, word


def test_the_document_in_the_manual_is_one_that_export_writes():
    text = (DOCS / "nodes.md").read_text(encoding="utf-8")
    block = re.search(r"^    # All that is set.*?^(?=\S)", text, re.MULTILINE | re.DOTALL)
    document = textwrap.dedent(block[0]).rstrip() + "\n"
    assert render_state(parse_state(document, where="nodes.md")) == document
