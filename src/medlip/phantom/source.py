"""Phantoms as a source of studies: what "phantom:N", "phantom:N@SEED" and either with "?SETTING" open."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from medlip.data.sources import Source
from medlip.errors import MedLIPError
from medlip.phantom.generator import phantom
from medlip.phantom.settings import PLAIN, PhantomSettings


def phantom_source(place: str) -> Source:
    """Return N phantoms, each made when it is read: "N", "N@SEED", or either with "?SETTING" (`PhantomSettings`).

    Raises:
        MedLIPError: the text names no number of phantoms, or an unknown setting.
    """
    which, asked, names = place.partition("?")
    settings = PhantomSettings.read(names) if asked else PLAIN
    count, _, seed = which.partition("@")
    if not count.isdigit() or int(count) < 1 or not (seed or "0").isdigit():
        raise MedLIPError(f"phantom:{place}: give a number of phantoms, such as phantom:2000, or phantom:2000@SEED.")
    keys = {"-".join([*settings.names(), seed or "0", str(index)]): index for index in range(int(count))}
    return Source("phantom", keys, partial(phantom, seed=int(seed or 0), **asdict(settings)))
