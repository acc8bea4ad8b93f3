"""How contents of interest are named. Imports no torch."""

NAMED = ("torchvision", "bisenet", "masks")
"""What stands before the colon; any other word is a module."""

FORMS = (
    "center", "torchvision:CLASS", "bisenet", "bisenet:FILE", "masks:DIR", "module:function",
)  # fmt: skip


def names_code(content: str) -> bool:
    """Say whether a name stands for a function of the user's, whose module would be imported."""
    return ":" in content and content.partition(":")[0] not in NAMED
