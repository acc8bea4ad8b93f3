"""The metadata of our safetensors files, texts by name, read as what they have to be. No torch."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ganc import strict_json
from ganc.errors import GancError
from ganc.strict_json import Refuse

Kind = TypeVar("Kind")

MOST_DIGITS = 19
"""Of a count: what 64 bits hold."""

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,39}")
"""What may stand in a command that is copied into a shell."""


class Metadata(dict[str, str]):
    """The metadata of a file.

    Args:
        found: The texts by name.
        refuse: Makes the error that says what is wrong with the file.
    Raises:
        GancError: An entry is no text.
    """

    def __init__(self, found: object, refuse: Refuse) -> None:
        if not isinstance(found, Mapping) or not all(isinstance(v, str) for v in found.values()):
            raise refuse("an entry of its metadata is not text")
        super().__init__(found)
        self.refuse = refuse

    def text(self, key: str) -> str:
        """Return an entry.

        Raises:
            GancError: There is none; likewise below, or it is something else.
        """
        if key not in self:
            raise self.refuse(f"its metadata has no {key}")
        return self[key]

    def count(self, key: str) -> int:
        """Return an entry that is a whole number, 0 or more."""
        text = self.text(key)
        if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
            raise self.wrong(key, "is no whole number")
        return int(text)

    def json(self, key: str) -> Any:
        """Return what an entry holds as JSON; see ``strict_json.parse``."""
        return strict_json.parse(self.text(key), f"its {key}", self.refuse)

    def typed(self, key: str, kind: type[Kind]) -> Kind:
        """Return what an entry holds as JSON, as a type; see ``strict_json.typed``."""
        return strict_json.typed(self.json(key), kind, f"its {key}", self.refuse)

    def wrong(self, key: str, finding: str) -> GancError:
        """Say what is wrong with an entry."""
        return self.refuse(f"its {key} {finding}")

    def check_format(self, key: str, newest: int, kind: type[GancError], where: str) -> None:
        """Refuse a file of a later format than this program knows.

        Args:
            key: The entry that holds the format.
            newest: What this program reads.
            kind: The error to raise.
            where: What has this format, as error messages name it.
        """
        number = self.count(key)
        if number > newest:
            version = self.get("ganc_version", "")
            newer = f"'ganc>={version}'" if _VERSION.fullmatch(version) else "--upgrade ganc"
            raise kind(
                f"{where} has format {number}, this ganc reads up to {newest}",
                f"pip install {newer}",
            )
