from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from silva.models.checkpoint import open_checkpoint
from silva.models.language_loader import load_language_model
from silva.models.latent import CausalLatents
from silva.pretraining.language.config import LanguageRecipe
from silva.pretraining.language.run import make_language_model


def test_the_directory_is_what_other_libraries_read(
    recipe: LanguageRecipe, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    measured = make_language_model(recipe, texts, out)
    assert not (tmp_path / "model.run").exists()
    record = json.loads((out / "training.json").read_text())
    assert record["bits_per_byte"] == measured["bits_per_byte"] > 0
    assert record["config"]["steps"] == 6
    assert record["drafts"]["tokens"] > 0

    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("the forest grows", return_tensors="pt").input_ids
    assert ids[0, 0] == 0
    assert tokenizer.decode(ids[0, 1:]) == "the forest grows"
    assert open_checkpoint(out).is_ready(torch.bfloat16)  # mapped as it lies, nothing is copied
    ours = load_language_model(out)
    with torch.inference_mode():
        hidden = ours.hidden(ids[0], torch.arange(ids.shape[1]), CausalLatents([ids.shape[1]]))
        torch.testing.assert_close(ours.logits(hidden), theirs(ids).logits[0], atol=1e-4, rtol=0)
