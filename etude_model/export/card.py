"""checkpoint facts -> README.md of an export: what the model is, how good, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude_model.config import EtudeConfig

CHAT_STAGES = ("sft", "lora")


def model_card(config: EtudeConfig, training: Mapping[str, Any]) -> str:
    """Return the Markdown of a model card.

    `training` is the checkpoint's training.json; its last evaluation gives the table of figures
    and, by their names (`bits_per_byte/zh`), the languages. Equal facts give equal text.
    """
    after = training.get("evaluations", {}).get("after", {})
    languages = sorted(name.split("/")[1] for name in after if name.startswith("bits_per_byte/"))
    stage = str(training["stage"])
    front = ["---", "license: cc-by-sa-4.0", "library_name: transformers"]
    front += ["pipeline_tag: text-generation", "tags: [etude, wikipedia]"]
    if languages:
        front += ["language:", *(f"- {language}" for language in languages)]
    facts = {
        "last stage": stage,
        "parameters": f"{config.num_parameters:,}",
        "layers x width": f"{config.num_layers} x {config.hidden_size}",
        "context": f"{config.context_length} tokens",
        "vocabulary": f"{config.vocab_size} (BPE, every byte has an id)",
        "optimiser steps of this stage": f"{training.get('steps', 0):,}",
        "tokens seen in this stage": f"{training.get('tokens_seen', 0):,}",
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    rows += [f"| {name} (held out) | {value:.4f} |" for name, value in sorted(after.items())]
    table = ["| | |", "|---|---:|", *rows]
    usage = _CHAT if stage in CHAT_STAGES else _TEXT
    return "\n".join([*front, "---", "", _INTRODUCTION, "", *table, "", usage, _LICENCE])


_INTRODUCTION = """\
# Etude

A small language model trained from a Wikipedia dump by Etude. It writes like an encyclopedia and
invents facts freely: use it to study training, not to look things up.

由 Etude 从维基百科转储训练的小型语言模型。文字像百科全书，内容却可能是编造的：
适合学习训练过程，不适合查证事实。"""

_TEXT = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this folder")
model = AutoModelForCausalLM.from_pretrained("this folder")
ids = tokenizer("The city of", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64, do_sample=True)[0]))
```
"""

_CHAT = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this folder")
model = AutoModelForCausalLM.from_pretrained("this folder")
messages = [{"role": "user", "content": "What is a river?"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", \
return_dict=True)
answer = model.generate(**ids, max_new_tokens=64)[0, ids["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

Text such as `<|im_end|>` inside a message becomes the special token itself here, as in every
tokenizer of this library; encode untrusted contents with `split_special_tokens=True`.
"""

_LICENCE = """\
## Licence of the data

The training text comes from Wikipedia, by its contributors, under
[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/). Dialogues from files of the person
who trained the model are under their own licences.
"""
