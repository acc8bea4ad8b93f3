"""How every reader of Python pickles words a refusal: one line, the culprit named."""

import re

from ganc.errors import CheckpointError

_LONGEST_NAME = 120
_TENSORFLOW = ("dnnlib.tflib.", "tfutil.")
# What every pickled ``torch.nn.Module`` has in its state; before a string stands its length.
_MODULE_ATTRIBUTES = (re.compile(rb"[\0\x0b]_parameters"), re.compile(rb"[\0\x08]_modules"))


def one_line(text: str) -> str:
    """Return a text that quotes a file so that no terminal acts on it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(name: str) -> str:
    """Return a name from a file as one short line."""
    text = one_line(name[: _LONGEST_NAME + 1])
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def refused_global(where: str, name: str, content: bytes) -> CheckpointError:
    """Refuse a Python object that a file asks for by name.

    Args:
        name: The global's, with its module.
        content: The pickle, for what else it tells of itself.
    """
    if name.startswith(_TENSORFLOW):
        return CheckpointError(
            f"{where} holds networks of NVIDIA's TensorFlow code ({printable(name)})",
            "StyleGAN2's are converted by legacy.py of NVlabs/stylegan2-ada-pytorch (python"
            " legacy.py --source=FILE --dest=NEW.pkl; it runs the file's code): import NEW.pkl."
            " StyleGAN1 and ProGAN are not supported",
        )
    if all(attribute.search(content) for attribute in _MODULE_ATTRIBUTES):
        return CheckpointError(
            f"{where} holds a whole pickled module ({printable(name)}), whose code is not run",
            "save its tensors where that code is: model = torch.load(FILE, weights_only=False)"
            " (of a dict, its entry); torch.save(model.state_dict(), NEW)",
        )
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
