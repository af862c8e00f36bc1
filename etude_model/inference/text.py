"""Token ids one by one -> text pieces that are whole characters.

A character outside the vocabulary comes as up to four byte tokens; showing the first of them would
put a replacement sign on the screen that nothing takes away again. So ids are held back until
their text is whole.
"""

from __future__ import annotations

from etude_model.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 4  # bytes, in UTF-8


class TextStream:
    """Turns ids into text; the pieces put together are what `decode` gives for all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start with nothing held back."""
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """Take one id and return the text that is now whole, which may be empty."""
        self._held.append(token_id)
        text = ""
        while self._held:
            whole = self._tokenizer.decode(self._held)
            if not whole.endswith(REPLACEMENT):
                self._held.clear()
                return text + whole
            if len(self._held) < LONGEST_CHARACTER:
                break
            # Four ids and still no character: the first of them begins none.
            text += self._tokenizer.decode(self._held[:1])
            del self._held[0]
        return text

    def finish(self) -> str:
        """Return what is still held back, broken or not."""
        text = self._tokenizer.decode(self._held)
        self._held.clear()
        return text
