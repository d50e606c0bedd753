from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from chat_cases import CHATS, HOSTILE, QWEN_TOOLS, SMOLLM2, TEMPLATES, TOOLS
from tokenizer_cases import byte_level

from silva.errors import ModelError, PromptError
from silva.models import chat as chat_module
from silva.models.chat import ChatTemplate, load_chat_template

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = CHATS["one"]


@pytest.fixture(scope="module")
def templates() -> Iterator[dict[str, ChatTemplate]]:
    found = {name: ChatTemplate(source, NAMES) for name, source in TEMPLATES.items()}
    yield found
    for template in found.values():
        template.close()


@pytest.fixture(scope="module")
def stock() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **NAMES)


def outcome(render: Any) -> str:
    """What was rendered, or that it was refused."""
    try:
        return render()
    except Exception:
        return "refused"


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [True, False])
def test_rendered_as_by_transformers(
    templates: Any, stock: Any, name: str, chat: str, tools: Any, prompt: bool
) -> None:
    for variables in ({}, {"enable_thinking": False, "date_string": "1 May", "bos_token": "<B>"}):
        expected = outcome(
            lambda variables=variables: stock.apply_chat_template(
                CHATS[chat],
                chat_template=TEMPLATES[name],
                tools=tools,
                add_generation_prompt=prompt,
                tokenize=False,
                **variables,
            )
        )
        found = outcome(
            lambda variables=variables: templates[name].render(
                CHATS[chat], tools=tools, add_generation_prompt=prompt, variables=variables
            )
        )
        assert found == expected


def test_smollm2_word_for_word(templates: Any) -> None:
    assert templates["smollm2"].render(HELLO) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi there!<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_refuses_is_quoted(templates: Any) -> None:
    with pytest.raises(PromptError, match="roles must alternate"):
        templates["llama2"].render([*HELLO, *HELLO])
    with pytest.raises(PromptError, match="fails on these messages"):
        templates["smollm2"].render([{"role": "user"}])


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_ends(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "RENDER_LIMIT_S", 1.0)
    # what is constant in a template is computed when it is compiled
    with pytest.raises((PromptError, ModelError), match="chat template"):
        ChatTemplate(HOSTILE[kind], NAMES).render(HELLO)


def test_the_next_chat_is_rendered_after_one_that_did_not_end() -> None:
    source = "{% if messages|length > 1 %}{{ 'x' * 10 ** 12 }}{% endif %}" + SMOLLM2
    template = ChatTemplate(source, NAMES)
    for _ in range(2):
        with pytest.raises(PromptError):
            template.render(HELLO * 2)
        assert template.render(HELLO).endswith("assistant\n")
    template.close()


def pid_of(template: ChatTemplate) -> int:
    process = template._process._process
    assert process is not None
    return process.pid


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_others_end_or_stop_is_replaced(sent: signal.Signals) -> None:
    template = ChatTemplate(SMOLLM2, NAMES)
    former = pid_of(template)
    os.kill(former, sent)
    assert template.render(HELLO).endswith("assistant\n")
    assert pid_of(template) != former
    assert not is_running(former)
    template.close()


def test_a_signal_for_all_processes_together_ends_no_rendering() -> None:
    template = ChatTemplate(SMOLLM2, NAMES)
    former = pid_of(template)
    for sent in (signal.SIGTERM, signal.SIGINT):
        os.kill(former, sent)
        assert template.render(HELLO).endswith("assistant\n")
    assert pid_of(template) == former
    template.close()


def test_time_is_that_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "RENDER_LIMIT_S", 0.3)
    with pytest.raises(PromptError, match=r"more than 0\.3 s of processor time"):
        ChatTemplate(HOSTILE["loops"], NAMES).render(HELLO)


def test_no_process_stays_behind() -> None:
    closed, dropped = ChatTemplate(SMOLLM2, NAMES), ChatTemplate(SMOLLM2, NAMES)
    pids = [pid_of(closed), pid_of(dropped)]
    closed.close()
    del dropped
    end = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("source", ["{% if %}", "{{ 'a", "{% for a in b %}", "x" * (2 << 20)])
def test_no_template(source: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatTemplate(source, NAMES)


def test_messages_that_are_no_json(templates: Any) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PromptError):
        templates["smollm2"].render([{"role": "user", "content": deep}])
    with pytest.raises(PromptError):
        templates["smollm2"].render([{"role": "user", "content": object()}])


@given(st.text(max_size=30), st.text("{}%-# 'azmin()[]|~.*0\n", max_size=40))
def test_any_content_is_only_content(templates: Any, role: str, content: str) -> None:
    found = templates["smollm2"].render([{"role": role, "content": content}])
    assert f"<|im_start|>{role}\n{content}<|im_end|>\n" in found


def test_directories(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "{{ eos_token }}", "eos_token": "</s>"}))
    template = load_chat_template(tmp_path)
    assert template is not None and template.render(HELLO) == "</s>"
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    config.write_text(json.dumps({"chat_template": named}))
    template = load_chat_template(tmp_path)
    assert template is not None
    assert (template.render(HELLO), template.render(HELLO, tools=TOOLS)) == ("a", "b")
    (tmp_path / "chat_template.jinja").write_text(QWEN_TOOLS)
    template = load_chat_template(tmp_path)
    assert template is not None and template.source == QWEN_TOOLS
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        load_chat_template(tmp_path)


@pytest.mark.parametrize("value", [5, [5], [{"name": "x", "template": "y"}], [{"name": "default"}]])
def test_no_template_in_the_configuration(tmp_path: Path, value: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelError, match="chat_template"):
        load_chat_template(tmp_path)
