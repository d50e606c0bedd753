"""Whatever a chat template's file holds, there is a text or an error that says so, and no escape."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from chat_cases import CHATS, TEMPLATES, TOOLS

from silva.errors import ModelError, PromptError
from silva.models import chat as chat_module
from silva.models.chat import ChatTemplate, load_chat_template
from silva.models.template_process import TemplateProcess
from silva.models.template_worker import LARGEST_RESULT

SECRET = "what-no-template-may-read"
FILE = "escaped"
"""Templates that get out would write a file of this name, or tell the secret."""

ESCAPES = (
    "{{ cycler.__init__.__globals__.os.popen('cat FOLDER/secret').read() }}",
    "{{ joiner['__init__']['__globals__']['os'].system('touch FOLDER/escaped') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() | map(attr='__init__') | list }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('FOLDER/escaped', 'w') }}",
    "{{ strftime_now.__globals__['sys'].modules['os'].environ['SILVA_SECRET'] }}",
    "{{ (messages|attr('__class__'))|attr('__base__')|attr('__subclasses__')() }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "{{ ('%s' | format)(self._TemplateReference__context.environment.loader) }}",
    "{% include 'FOLDER/secret' %}",
    "{% import 'os' as os %}{{ os.system('touch FOLDER/escaped') }}",
    "{% extends 'FOLDER/secret' %}",
    "{% set _ = messages.append(messages) %}",
    "{{ messages.__reduce_ex__(4) }}",
)
PIECES = (
    *("{{", "}}", "{%", "%}", "{#", "#}", "{%-", "-%}", "'", '"', "\\", "\x00", "\ud800", "é"),
    *("{% for m in messages %}", "{% endfor %}", "{% if tools %}", "{% else %}", "{% endif %}"),
    *("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{% break %}", "{% continue %}"),
    *("{% generation %}", "{% endgeneration %}", "{% set ns = namespace(a=1) %}", "{% raw %}"),
    *("{{ messages | tojson(indent=9 ** 9) }}", "{{ 9 ** 9 ** 9 }}", "{{ 'x' * 10 ** 10 }}"),
    *("{{ range(10 ** 9) | list }}", "{{ '\\ud800' }}", "{{ '%*d' % (10 ** 10, 1) }}"),
    *("{{ '{:>9999999999}'.format(1) }}", "{{ raise_exception(messages) }}", "{{ 1 / 0 }}"),
    *("{{ strftime_now('%' * 99) }}", "{{ strftime_now(7) }}", "{{ caller() }}", "((((" * 99),
    *("{{ lipsum(n=10 ** 6) }}", "{{ namespace }}", "{{ messages[0] }}", "[" * 500, "- " * 500),
)
SYNTAX = st.text("{}%-# 'azmin()[]|~.*0\n\\\"=", max_size=80)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A template that works, with some of it cut, doubled, moved or replaced by anything."""
    text = draw(st.sampled_from([*TEMPLATES.values(), ""]))
    anything = st.one_of(st.sampled_from([*PIECES, *ESCAPES]), SYNTAX, st.text(max_size=20))
    for _ in range(draw(st.integers(1, 4))):
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        # mostly near each other, or nothing of the template would be left
        stop = min(stop, start + draw(st.sampled_from([0, 1, 10, 100_000])))
        middle = draw(st.one_of(anything, st.just(text[start:stop] * 2), st.just("")))
        text = text[:start] + middle + text[stop:]
    return text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a secret, and one process that renders everything."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "secret").write_text(SECRET)
    process = TemplateProcess(0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SILVA_SECRET", SECRET)
        # a start takes longer than all that one template does here
        patch.setattr(chat_module, "TemplateProcess", lambda limit_s: process)
        yield folder
    process.close()


def outcome(make: Any) -> str | None:
    """What a chat is rendered to, with every kind of chat; None where it is refused in words."""
    said = None
    try:
        template = make()
        for chat in (CHATS["one"], CHATS["tools"]):
            for tools in (None, TOOLS):
                try:
                    said = template.render(chat, tools=tools)
                except PromptError as error:
                    assert "chat template" in str(error)
                    continue
                assert len(said) <= LARGEST_RESULT
    except ModelError as error:
        assert any(words in str(error) for words in ("chat template", "chat_template", "be read"))
    return said


def check_inside(folder: Path, said: str | None) -> None:
    assert sorted(os.listdir(folder)) == ["secret"]
    assert said is None or SECRET not in said


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_template_gets_out(world: Path, escape: str) -> None:
    source = escape.replace("FOLDER", str(world))
    check_inside(world, outcome(lambda: ChatTemplate(source, {})))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(sources(), st.text(max_size=200), SYNTAX))
def test_any_source_gives_a_text_or_an_error(world: Path, source: str) -> None:
    source = source.replace("FOLDER", str(world))
    check_inside(world, outcome(lambda: ChatTemplate(source, {"bos_token": "<s>"})))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(sources(), st.binary(max_size=8), st.booleans())
def test_any_file_gives_a_text_or_an_error(
    world: Path, source: str, noise: bytes, as_json: bool
) -> None:
    text = source.replace("FOLDER", str(world))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if as_json:
            content = json.dumps({"chat_template": text}).encode() + noise[:1]
            (folder / "tokenizer_config.json").write_bytes(content)
        else:  # where the noise is UTF-8, the template is still read
            content = noise + text.encode("utf-8", "surrogatepass")
            (folder / "chat_template.jinja").write_bytes(content)
        check_inside(world, outcome(lambda: load_chat_template(folder)))
