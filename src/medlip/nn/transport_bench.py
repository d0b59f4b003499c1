"""How fast transport plans are found on this machine, beside POT (Python Optimal Transport), in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medlip.errors import MedLIPError
from medlip.nn.transport import Transport, sinkhorn
from medlip.parallel import track

REPEATS = 3
EXACT = 1e-12  # error to which POT is run where it is the yardstick of ours


def bench_transport(
    images: int = 64,
    reports: int = 64,
    sentences: int = 12,
    patches: int = 49,
    *,
    width: int = 64,
    epsilon: float = 0.05,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> dict[str, object]:
    """Time transport of all pairs of images and reports, all at once, beside POT one by one on the same float32 costs.

    Costs are 1 - cosine of random unit vectors. Our error is the sum of absolute differences of marginals, never below the
    Euclidean norm that POT looks at every ten sweeps.

    Args:
        images: how many.
        reports: how many; every image is matched with every report.
        sentences: a report.
        patches: an image.
        width: of the vectors.
        epsilon: weight of the entropy.
        tolerance: marginal error at which both sides stop.
        seed: of the vectors.

    Returns:
        `seconds` for all problems (best of `repeats`, with one thread and with all, before and after POT) and its `threads`,
        `pot_log_seconds` and `pot_seconds` for the same with POT in the log domain and plain, `speedup` (pot_log_seconds /
        seconds), `max_error` (largest absolute difference from POT in float64, run to `EXACT`, over plans and costs), what
        it took, and the settings.

    Raises:
        MedLIPError: POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise MedLIPError("bench transport compares with POT, which is not installed: pip install 'medlip[dev]'") from error

    generator = torch.Generator().manual_seed(seed)
    texts = F.normalize(torch.randn(reports, sentences, width, generator=generator), dim=-1)
    regions = F.normalize(torch.randn(images, patches, width, generator=generator), dim=-1)
    cost = 1 - torch.einsum("rmd,ind->irmn", texts, regions)
    problems = cost.reshape(-1, sentences, patches).double().numpy()
    row, column = np.full(sentences, 1 / sentences), np.full(patches, 1 / patches)

    def pot(method: str, threshold: float = tolerance, sweeps: int = 10_000) -> list[Any]:
        return [
            ot.sinkhorn(row, column, problem, epsilon, method=method, stopThr=threshold, numItermax=sweeps)
            for problem in track(problems, f"POT, {method}")
        ]

    def ours() -> Transport:
        return sinkhorn(cost, epsilon=epsilon, tolerance=tolerance)

    found = ours()
    timed = _by_threads(ours)
    pot_log_seconds = _seconds(lambda: pot("sinkhorn_log"))
    pot_seconds = _seconds(lambda: pot("sinkhorn"))
    seconds, threads = min(*timed, *_by_threads(ours))

    plans = found.plan.reshape(problems.shape).double().numpy()
    exact = np.stack(pot("sinkhorn", EXACT))
    differences = plans - exact
    return {
        "seconds": seconds,
        "pot_log_seconds": pot_log_seconds,
        "pot_seconds": pot_seconds,
        "speedup": pot_log_seconds / seconds,
        "max_error": float(max(np.abs(differences).max(), np.abs((differences * problems).sum((1, 2))).max())),
        "marginal_error": float(found.error.max()),
        "mean_iterations": float(found.iterations.double().mean()),
        "problems": len(problems),
        "sentences": sentences,
        "patches": patches,
        "width": width,
        "epsilon": epsilon,
        "tolerance": tolerance,
        "seed": seed,
        "threads": threads,
        "repeats": 2 * REPEATS,
        "pot_version": ot.__version__,
    }


def _by_threads(action: Callable[[], object]) -> list[tuple[float, int]]:
    """Seconds and threads, best of `REPEATS` with one thread and with all: which is faster depends on what else runs."""
    whole = torch.get_num_threads()
    timed = []
    for threads in sorted({1, whole}):
        torch.set_num_threads(threads)
        timed.append((min(_seconds(action) for _ in range(REPEATS)), threads))
    torch.set_num_threads(whole)
    return timed


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
