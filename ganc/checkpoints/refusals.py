"""How every reader of Python pickles words a refusal: one line, the culprit named."""

from ganc.errors import CheckpointError

_LONGEST_NAME = 120


def one_line(text: str) -> str:
    """Return a text that quotes a file so that no terminal acts on it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(name: str) -> str:
    """Return a name from a file as one short line."""
    text = one_line(name[: _LONGEST_NAME + 1])
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def refused_global(where: str, name: str) -> CheckpointError:
    """Refuse a Python object that a file asks for by name."""
    return CheckpointError(
        f"{where} refers to the global {printable(name)}, which is not allowed in a checkpoint",
        "no code from a checkpoint is ever run; save its tensors instead",
    )


def refused_opcode(where: str, opcode: str) -> CheckpointError:
    """Refuse an instruction that no checkpoint needs."""
    return CheckpointError(
        f"{where} uses the pickle opcode {opcode}, which is not allowed in a checkpoint",
        "no code from a checkpoint is ever run; save its tensors instead",
    )
