"""How fast facts are read on this machine."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from pathlib import Path

from medlip.memory import MIB, peak_resident
from medlip.reports.extract import forget_sentences
from medlip.reports.generate import generated_graphs, generated_reports
from medlip.reports.stream import Summary, extract_file

PASSES = 3


def bench_facts(reports: int = 20_000, graphs: int = 5_000, seed: int = 0) -> dict[str, object]:
    """Time the way from a file of reports, and from a file of graphs, to a file of facts, on one core.

    Args:
        reports: how many distinct reports of 40 words to generate.
        graphs: how many distinct RadGraph graphs to generate.
        seed: of the generator.

    Returns:
        `reports_per_second` and `radgraph_studies_per_second` of CPU time, in the best of `PASSES` passes: what
        else the machine does only slows them, and no sentence is remembered from one to the next. `peak_memory_mb` of the
        process, and the counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        table, graph_file, out = (Path(folder) / name for name in ("reports.csv", "graphs.json", "facts.parquet"))
        with table.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["study", "report"])
            rows.writerows(enumerate(generated_reports(reports, seed)))
        graph_file.write_text(json.dumps(dict(generated_graphs(graphs, seed))), encoding="utf-8")
        extract_file(table.parent / _few(table), out, workers=0)  # the words are read once, before the clock starts
        read, seconds = _timed(table, out)
        read_graphs, graph_seconds = _timed(graph_file, out)
    return {
        "reports_per_second": read.reports / seconds,
        "radgraph_studies_per_second": read_graphs.reports / graph_seconds,
        "peak_memory_mb": peak_resident() / MIB,
        "reports": read.reports,
        "facts": read.facts,
        "radgraph_studies": read_graphs.reports,
        "radgraph_facts": read_graphs.facts,
    }


def _few(table: Path) -> str:
    few = table.with_name("few.csv")
    with table.open(encoding="utf-8") as stream:
        few.write_text("".join(next(stream) for _ in range(3)), encoding="utf-8")
    return few.name


def _timed(source: Path, out: Path) -> tuple[Summary, float]:
    seconds = []
    for _ in range(PASSES):
        forget_sentences()
        start = time.process_time()
        summary = extract_file(source, out, workers=0)
        seconds.append(time.process_time() - start)
    return summary, min(seconds)
