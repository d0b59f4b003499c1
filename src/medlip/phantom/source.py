"""Phantoms as a source of studies: what "phantom:N" and "phantom:N@SEED" open."""

from __future__ import annotations

from functools import partial

from medlip.data.sources import Source
from medlip.errors import MedLIPError
from medlip.phantom.generator import phantom


def phantom_source(place: str) -> Source:
    """Return N phantoms, by the text "N" or "N@SEED"; each is made when it is read.

    Raises:
        MedLIPError: the text names no number of phantoms.
    """
    count, _, seed = place.partition("@")
    if not count.isdigit() or int(count) < 1 or not (seed or "0").isdigit():
        raise MedLIPError(f"phantom:{place}: give a number of phantoms, such as phantom:2000, or phantom:2000@SEED.")
    keys = {f"{seed or 0}-{index}": index for index in range(int(count))}
    return Source("phantom", keys, partial(phantom, seed=int(seed or 0)))
