"""Draws sentences from a grammar."""
import re
from collections.abc import Mapping, Sequence

from vatt.data.ingest.plans import draw


def expand(templates: Sequence[str], phrases: Mapping[str, Sequence[str]],
           *site: object) -> str:
  """Draws a sentence.

  Args:
    templates: sentences with names of phrases in braces.
    phrases: the phrases that a name stands for; they may have names in braces
      in turn.
    *site: where the sentence is used, which the choices are drawn from.

  Returns:
    The sentence with a capital letter and a full stop.
  """
  text = templates[draw(len(templates), *site)]
  while slot := re.search(r"{(\w+)}", text):
    options = phrases[slot[1]]
    choice = options[draw(len(options), *site, slot.start(), slot[1])]
    text = text[:slot.start()] + choice + text[slot.end():]
  return f"{text[0].upper()}{text[1:]}."
