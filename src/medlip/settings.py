"""Settings as data, each of which may say what it needs to do anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a setting needs of the others to do anything.

    Attributes:
        what: as a message says it, such as "icl=scaled".
        met: whether given settings have it.
    """

    what: str
    met: Callable[[Any], bool]


class SettingsModel(BaseModel):
    """Settings; an unknown one is an error.

    Attributes:
        needs: what settings need of the others, by name; nothing where one isn't named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs: ClassVar[Mapping[str, Requirement]] = {}

    def missed(self, name: str) -> str:
        """Return what a setting needs to do anything and doesn't have; "" if it does something.

        One at its default, or that switches something off, asks for nothing.
        """
        needs, value = self.needs.get(name), getattr(self, name, None)
        if needs is None or value in (type(self).model_fields[name].default, "off", 0, None) or needs.met(self):
            return ""
        return needs.what
