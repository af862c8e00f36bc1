"""The model as MLflow serves it: prompts or dialogues in, texts out.

MLflow stores this file with each version and runs it to load one ("models from code"): nothing is
pickled, the weights are safetensors.

    model = mlflow.pyfunc.load_model("models:/etude@champion")
    model.predict(["A river is", [{"role": "user", "content": "What is a river?"}]])
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class EtudeModel(PythonModel):
    """A string is continued; a list of {"role", "content"} messages is answered."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint folder that lies with the version."""
        from etude_model.inference.load import load_checkpoint

        self.loaded = load_checkpoint(Path(context.artifacts["checkpoint"]))

    # MLflow turns an annotation of model_input into a schema, and no schema allows a prompt or a
    # dialogue per row; without one it would advise at each load to add it.
    _skip_type_hint_validation = True

    def predict(  # type: ignore[no-untyped-def]
        self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Return a text for each prompt. `params`: max_new_tokens, temperature, top_p, seed.

        The longest prompt decides how much room max_new_tokens has; what does not fit is cut.
        """
        from etude_model.inference.generate import SamplingConfig, generate

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        prompts = [self._encode(prompt) for prompt in _rows(model_input)]
        if not prompts:
            return []
        sampling = SamplingConfig(**(params or {}))
        room = self.loaded.config.context_length - max(map(len, prompts))
        most = max(1, min(sampling.max_new_tokens, room))
        sampling = sampling.model_copy(update={"max_new_tokens": most})
        stops = {tokenizer.eos_id, tokenizer.im_end_id}
        written = generate(model, prompts, sampling, stop_ids=stops)
        return [tokenizer.decode(one.token_ids) for one in written]

    def _encode(self, prompt: Any) -> list[int]:
        tokenizer = self.loaded.tokenizer
        if isinstance(prompt, str):
            return [tokenizer.bos_id, *tokenizer.encode(prompt)]
        return tokenizer.encode_dialogue(list(prompt), add_generation_prompt=True)[0]


def _rows(model_input: Any) -> Iterable[Any]:
    """Return the prompts of what MLflow hands over: a list, one prompt, an array or a table."""
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "columns"):  # a data frame: its first column
        return list(model_input.iloc[:, 0])
    return list(model_input)


set_model(EtudeModel())
