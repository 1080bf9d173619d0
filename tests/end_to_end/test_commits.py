"""The benchmark of commits, small: its units are committed by the real code, its counts add up, and nobody waits."""

from __future__ import annotations

from pathlib import Path

import commits


def test_a_small_version_of_the_benchmark_of_commits(s3: str, tmp_path: Path) -> None:
    facts = commits.facts_of(tmp_path)
    fast = commits.at_full_speed(f"{s3}/fast", facts, 92, None)
    assert fast["requests_per_unit"] == {"put": round(2 / 92, 3), "get": 0, "list": 0}  # two records
    assert fast["units_per_second"] > 0
    beside = commits.beside_teachers(f"{s3}/beside", facts, 64, 2)
    assert beside["units"] == 92
    assert beside["records"] < 10
    # However slow the server is: a unit is handed over as soon as the lock is free.
    assert beside["hand_over_ms_median"] < 20
    driver = commits.driven(tmp_path, 50)
    assert driver["clips_left"] == 50 * commits.CLIPS_PER_SHARD
    assert commits.checkpointed(tmp_path, 1000)["bytes"] > 64_000
