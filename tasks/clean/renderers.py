"""A call -> its words, for the templates whose look is more than a form can say.

Each renderer takes the call and the language's wording. Tables name them: `nihongo: [nihongo]`.
"""

from __future__ import annotations

from tasks.clean.call import Renderer
from tasks.clean.date_renderers import DATES
from tasks.clean.number_renderers import NUMBERS
from tasks.clean.spelled_renderers import SPELLED
from tasks.clean.word_renderers import WORDS

RENDERERS: dict[str, Renderer] = {**WORDS, **NUMBERS, **SPELLED, **DATES}
