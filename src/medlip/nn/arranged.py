"""Several images of a study beside one another: from one image after the other to rows of equal length, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medlip.data.views import Views


@dataclass(frozen=True, slots=True)
class Arranged:
    """Where V images lie among B studies of M views each, of which some are not there.

    Attributes:
        study: int64 (V,).
        place: int64 (V,), in its study.
        real: bool (B, M), which views are there.
        frontal: bool (B, M), which of them are frontal.
    """

    study: Tensor
    place: Tensor
    real: Tensor
    frontal: Tensor

    @classmethod
    def of(cls, views: Views, device: torch.device) -> Arranged:
        """Arrange studies, on a device."""
        counts = torch.tensor(views.counts)
        study = torch.repeat_interleave(torch.arange(len(counts)), counts)
        place = torch.cat([torch.arange(count) for count in views.counts])
        frontal = torch.zeros(len(counts), max(views.counts), dtype=torch.bool)
        frontal[study, place] = torch.tensor([kind == "frontal" for kinds in views.studies for kind in kinds])
        real = torch.arange(frontal.shape[1]) < counts[:, None]
        return cls(*(part.to(device, non_blocking=True) for part in (study, place, real, frontal)))

    def together(self, values: Tensor) -> Tensor:
        """Return what N locations of each image have, (V, N, d), by study: (B, M N, d), 0 where a view is not there."""
        padded = values.new_zeros(*self.real.shape, *values.shape[1:])
        return padded.index_put((self.study, self.place), values).flatten(1, 2)

    def apart(self, values: Tensor) -> Tensor:
        """Return what all locations of a study have, (B, C, M N), by image: (V, C, N)."""
        return self._by_view(values)[self.study, :, self.place]

    def mask(self, locations: int) -> Tensor:
        """Return which of the locations of M views, so many a view, are there: bool (B, M N)."""
        return self.real.repeat_interleave(locations, 1)

    def in_frontal(self, values: Tensor) -> Tensor:
        """Return the sum over the frontal views of what is above 0 in (B, C, M N): (B, C, N)."""
        return (self._by_view(values).relu() * self.frontal[:, None, :, None]).sum(2)

    def _by_view(self, values: Tensor) -> Tensor:
        views = self.real.shape[1]
        return values.reshape(*values.shape[:2], views, values.shape[2] // views)


def of_kinds(views: Views, known: Sequence[str], device: torch.device) -> Tensor:
    """Return which of the known kinds each image is, int64 (V,)."""
    return torch.tensor([known.index(kind) for kinds in views.studies for kind in kinds], device=device)
