"""Templates of overlays: Jinja2, sandboxed, the same text from the same values each time.

A name that is not there is an error, told with file and line. What could make two renderings
differ (chance, the clock, other files) is not there.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vnfsbuild.errors import InputError

SECRET_NAMES = frozenset({"root_password", "passwords", "site_key", "node_key", "ssh_host_key"})
"""Variables that only overlays see which are declared secret."""

_BY_CHANCE = ("random",)


def _make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    for name in _BY_CHANCE:
        del environment.filters[name]
    del environment.globals["lipsum"]
    return environment


_ENVIRONMENT = _make_environment()


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A template, compiled; two of the same text are equal."""

    text: str
    where: str
    names: frozenset[str]
    """The variables that it looks at."""
    compiled: jinja2.Template

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and (self.text, self.where) == (other.text, other.where)

    def __hash__(self) -> int:
        return hash((self.text, self.where))


def compile_template(text: str, where: str) -> Template:
    """Return the template *text*; *where* is its file, for messages.

    Raises:
        InputError: it is none, with the line.
    """
    try:
        tree = _ENVIRONMENT.parse(text, filename=where)
        names = meta.find_undeclared_variables(tree) - _ENVIRONMENT.globals.keys()
        code = _ENVIRONMENT.compile(tree, name=where, filename=where)
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        told = f"{where} line {line}" if line else where
        raise InputError(f"{told}: {error.message}") from error
    compiled = jinja2.Template.from_code(_ENVIRONMENT, code, dict(_ENVIRONMENT.globals))
    return Template(text=text, where=where, names=frozenset(names), compiled=compiled)


def render_template(template: Template, values: Mapping[str, Any]) -> str:
    """Return the text that *template* makes of *values*.

    Raises:
        InputError: what went wrong, with file and line: a name that is not there, mostly.
    """
    try:
        return template.compiled.render(values)
    except Exception as error:
        # A template may fail in any way that Python can; each is the site's to mend.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == template.where]  # fmt: skip
        line = f" line {lines[-1]}" if lines else ""
        raise InputError(f"{template.where}{line}: {error}") from error
