"""What phantoms can be beside their number and seed: "phantom:N?independent", or several settings, joined by "&"."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from medlip.errors import MedLIPError, did_you_mean


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """Which phantoms are meant.

    Attributes:
        independent: place is drawn independently of the pathology, and findings independently of one another; these are
            other patients.
        lateral: each study has a lateral view beside its frontal one; these are the same patients.
    """

    independent: bool = False
    lateral: bool = False

    @classmethod
    def read(cls, text: str) -> PhantomSettings:
        """Return the settings that a text names, such as "independent"; several are joined by "&".

        Raises:
            MedLIPError: the text names none, or one that there isn't.
        """
        known = [field.name for field in fields(cls)]
        for name in (names := text.split("&")):
            if name not in known:
                what = f"no setting {name!r}.{did_you_mean(name, known)}" if name else "no setting after the ?."
                raise MedLIPError(f"phantom:N?{text}: {what} Settings, several joined by &: {', '.join(known)}.")
        return cls(**dict.fromkeys(names, True))

    def names(self) -> tuple[str, ...]:
        """Return the names of the settings that are on."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


PLAIN = PhantomSettings()
_ID = re.compile(r"phantom-(?:([a-z-]+)-)?(\d+)-(\d+)")


def study_id(index: int, seed: int, settings: PhantomSettings) -> str:
    """Return the name of a phantom, such as "phantom-1-23" or "phantom-independent-1-23"."""
    return "-".join(["phantom", *settings.names(), str(seed), str(index)])


def read_study_id(name: str) -> tuple[int, int, PhantomSettings] | None:
    """Return index, seed and settings of the phantom that has this name; None where no phantom has it."""
    found = _ID.fullmatch(name)
    if found is None:
        return None
    try:
        settings = PhantomSettings.read(found[1].replace("-", "&")) if found[1] else PLAIN
    except MedLIPError:
        return None
    return int(found[3]), int(found[2]), settings
