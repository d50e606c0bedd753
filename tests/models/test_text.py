from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chat_cases import CHATS, SMOLLM2
from tokenizer_cases import byte_level, save_tokenizer

from silva.errors import PromptError
from silva.models.text import load_text

SHAPE = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path, byte_level(), chat_template=SMOLLM2)
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def test_a_chat_becomes_tokens_and_comes_back(folder: Path) -> None:
    text = load_text(folder)
    assert (text.vocabulary, text.end_tokens, text.chat_template) == (500, (2,), SMOLLM2)
    prompt = text.render(CHATS["one"], tools=None, add_generation_prompt=True, variables={})
    tokens = text.encode(prompt, add_special=False)
    assert text.decode(tokens, skip_special=False) == prompt
    decoder = text.decoder(skip_special=True)
    answer = "".join(map(decoder.push, tokens)) + decoder.finish()
    assert answer == text.decode(tokens, skip_special=True)
    assert text.token_bytes(2) == b"<|im_end|>"
    text.close()


def test_a_token_without_a_row_is_the_prompts_mistake(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**SHAPE, "vocab_size": 300}))
    text = load_text(folder)
    assert text.encode("a", add_special=False)
    with pytest.raises(PromptError, match="does not know the token '<tool"):
        text.encode("a<tool ▁ call>", add_special=False)
    text.close()


def test_a_model_without_a_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    text = load_text(folder)
    assert text.chat_template == ""
    with pytest.raises(PromptError, match="no chat template"):
        text.render(CHATS["one"], tools=None, add_generation_prompt=True, variables={})
    text.close()


def test_texts_need_no_torch(folder: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from silva.models.text import load_text
text = load_text(Path({str(folder)!r}))
text.encode("Once", add_special=True)
text.close()
print({{"torch", "transformers", "numpy"}} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
