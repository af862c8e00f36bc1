"""Samples for people: what each of them says about itself."""

from __future__ import annotations

import torch

from etude_model.config import EtudeConfig
from etude_model.evaluation.samples import sample_texts
from etude_model.inference.generate import SamplingConfig
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer


def test_samples_tell_their_end_and_their_repetition(
    tiny_model_config: EtudeConfig, tiny_tokenizer: Tokenizer
) -> None:
    """Catches an endless loop that looks like a text: a model that always writes one token."""
    model = Etude(tiny_model_config)
    likeliest = {"looping": 40, "silent": tiny_tokenizer.eos_id}
    found = {}
    for name, id in likeliest.items():
        with torch.no_grad():
            model.model.norm.weight.zero_()
            model.model.norm.weight[0] = 1  # the first place of the stream is all that is heard
            model.model.embed_tokens.weight[:, 0] = 1
            model.output_weight[:, 0] = 1
            model.output_weight[id, 0] = 50
        sampling = SamplingConfig(max_new_tokens=12, temperature=0.0, repetition_penalty=1.0)
        arguments = {"as_dialogue": False, "sampling": sampling}
        (found[name],) = sample_texts(model, tiny_tokenizer, ["river " * 60], **arguments)
    assert found["looping"]["finish_reason"] == "length"
    assert found["looping"]["repetition"] == round(1 - 1 / 9, 4)
    assert (found["silent"]["finish_reason"], found["silent"]["text"]) == ("stop", "")
    assert found["silent"]["repetition"] == 0
