"""What people are shown: tables, sizes, progress."""

import io
import sys

import pytest

from vnfsbuild import progress
from vnfsbuild.listing import render_document, render_size, render_table


def test_columns_are_as_wide_as_what_stands_in_them():
    assert render_table(("A", "LONG", "C"), [("aaaa", "b", ""), ("a", "", "c")]) == (
        "A     LONG  C\naaaa  b\na           c"
    )
    assert render_table(("A",), []) == "A"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
        (147_236_000, "147.2 MB"), (3_000_000_000, "3.0 GB"), (5 * 10**12, "5000.0 GB"),
    ],
)  # fmt: skip
def test_sizes_are_decimal(size_bytes, text):
    assert render_size(size_bytes) == text


def test_json_is_for_machines_but_readable():
    assert render_document({"b": ["é"], "a": 1}) == '{\n  "a": 1,\n  "b": [\n    "é"\n  ]\n}'


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.bar("import", total_bytes=2000) as advance:
        advance(500)
        advance(1500)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("import: 25 % of 2.0 kB\nimport: 100 % of 2.0 kB\nimport: 2.0 kB in ")


def test_progress_of_nothing_does_not_divide_by_zero(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.bar("import", total_bytes=0) as advance:
        advance(0)
    assert "import: 0 % of 0 B" in capsys.readouterr().err


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.bar("import", total_bytes=2000) as advance:
        advance(2000)
    assert "import: 100%" in terminal.getvalue()
    assert "2.00k/2.00k" in terminal.getvalue()
