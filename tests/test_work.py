from __future__ import annotations

import os

from medlip.work import process


def crash_at_35(item: int) -> int:
    if item == 35:
        os.abort()
    return 2 * item


def test_an_item_that_takes_its_process_down_is_skipped_alone() -> None:
    outcomes = list(process(crash_at_35, range(70), "doubling", workers=2))
    assert [outcome.item for outcome in outcomes] == list(range(70))
    assert [outcome.item for outcome in outcomes if outcome.skipped] == [35] and "crashed" in outcomes[35].skipped
    assert all(outcome.value == 2 * outcome.item for outcome in outcomes if not outcome.skipped)
