"""What stands beside tensors in torch files and is no tensor: values without behaviour.

Training loops save their best score as a NumPy number, their options as a dict with attributes,
their folder as a path. Those listed here become empty objects or plain dicts: nothing of the named
package is imported or called, and no reader looks at them but at attributes by name.
"""

OBJECTS = (
    "argparse.Namespace", "types.SimpleNamespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "datetime.datetime", "datetime.date", "datetime.timedelta",
    "builtins.bytearray", "builtins.complex", "__builtin__.bytearray", "__builtin__.complex",
    "torch.Size", "torch.device",
)  # fmt: skip
"""Globals that are called, for something that is kept without its value."""

DICTS = (
    "collections.defaultdict",
    "easydict.EasyDict", "munch.Munch", "addict.addict.Dict", "yacs.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)  # fmt: skip
"""Dicts with more to them."""

FACTORIES = (
    "numpy.ndarray", "builtins.int", "builtins.float", "builtins.list", "builtins.dict",
    "__builtin__.int", "__builtin__.float", "__builtin__.list", "__builtin__.dict",
)  # fmt: skip
"""Globals that are arguments: of defaultdicts, and of NumPy's functions."""
