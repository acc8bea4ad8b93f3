"""What a terminal is shown: text from files, paths and options with nothing in it that acts.

Everything that a command prints for a person passes here. Imports next to nothing: every command
loads it.
"""

import unicodedata

MOST_MESSAGE = 2_000
"""Characters of an error, a hint or a note that are shown."""

MOST_CELL = 4_000
"""Characters of a table's cell that are shown."""


def shown(text: str, most: int = MOST_MESSAGE) -> str:
    """Return text as it can be printed.

    Characters that move the cursor, colour, hide or turn what follows are written as escapes, as
    ``\\x1b`` or ``\\u202e``; so is what no encoding knows. Spaces of all widths stay.

    Args:
        most: Characters; what is longer shows its first and last ones: an error's end says what
            to do.
    """
    if len(text) > most:
        head = most - most // 4
        parts = (text[:head], f" … ({len(text)} characters) … ", text[head - most :])
        return "".join(shown(part, len(part)) for part in parts)
    if text.isprintable():
        return text
    return "".join(map(_one, text))


def shown_lines(text: str, most: int = MOST_MESSAGE) -> str:
    """Do the same line by line, to text that may have several."""
    return "\n".join(shown(line, most) for line in text.split("\n"))


def _one(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
