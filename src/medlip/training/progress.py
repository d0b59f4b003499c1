"""How far a training is and how fast: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 30.0
BAR_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast steps are taken; callbacks, such as validation, don't count.

    Attributes:
        images: that were learned from, in all processes.
        seconds: of these steps.
        waited: of these, seconds spent waiting for batches.
    """

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other: Pace) -> Pace:
        return Pace(self.images + other.images, self.seconds + other.seconds, self.waited + other.waited)

    def __sub__(self, other: Pace) -> Pace:
        return Pace(self.images - other.images, self.seconds - other.seconds, self.waited - other.waited)

    @property
    def images_per_second(self) -> float:
        """Images a second."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def data_wait_share(self) -> float:
        """Share of the time in which there was no batch to learn from."""
        return self.waited / max(self.seconds, 1e-9)


class Progress:
    """Shows step, loss, images a second and the time left on stderr.

    Args:
        description: of what is trained.
        step: that is reached.
        steps: of the whole, None where that isn't known.
        shown: False in processes other than the main one, which show nothing.
    """

    def __init__(self, description: str, step: int, steps: int | None, *, shown: bool) -> None:
        self._description, self._step, self._steps = description, step, steps
        console = Console(stderr=True)
        self._every = BAR_SECONDS if console.is_terminal else LINE_SECONDS
        self._bar: Bar | None = None
        if console.is_terminal and shown:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[about]}"), console=console)
            self._task = self._bar.add_task(description, total=steps, completed=step, about="")
        self._is_shown, self._last = shown, time.monotonic()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self._step)
            self._bar.stop()

    def update(self, step: int, pace: Pace, loss: Callable[[], float]) -> None:
        """Show the step that was just taken, unless one was shown a moment ago.

        Args:
            step: how many are done.
            pace: of the steps.
            loss: gives the loss of the step; asked for only if it is shown, since an accelerator waits for it.
        """
        self._step, now = step, time.monotonic()
        self._first = self._first or (step, now)  # from here on, what comes before the first batch being over
        if now - self._last < self._every or not self._is_shown:
            return
        self._last = now
        about = f"loss {loss():.4g}, {pace.images_per_second:.3g} images/s{self._left(now)}"
        if self._bar:
            self._bar.update(self._task, completed=step, about=about)
        else:
            total = f" of {self._steps:,}" if self._steps else ""
            print(f"{self._description}: step {step:,}{total}, {about}", file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        step, began = self._first or (self._step, now)
        if self._steps is None or self._step == step:
            return ""
        per_step = (now - began) / (self._step - step)
        return f", {duration(per_step * (self._steps - self._step))} left"


def duration(seconds: float) -> str:
    """Return a time as people say it: 50 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
