"""The benchmark of commits, small: its units are committed, folded and planned by the real code, and its counts add up."""

from __future__ import annotations

from pathlib import Path

import commits

from teacher_cache.store.ledger import read_ledger, read_volumes
from teacher_cache.store.objects import Objects
from teacher_cache.store.store import create_store


def test_a_small_version_of_the_benchmark_of_commits(s3: str, tmp_path: Path) -> None:
    facts, url = commits.facts_of(tmp_path), f"{s3}/store"
    create_store(url, facts.recipe)
    arrays = len(commits.Units(facts).keys(0))
    done = commits.work(url, facts, 0, 100, 0.5, with_shards=True)
    assert done["units"] > 0
    assert done["requests"] == {"GET": 3 * done["units"], "PUT": (1 + arrays) * done["units"]}
    found = commits.folded(url, facts, done["units"] + 10)
    assert read_volumes(Objects(url)).bound[0].entries == found["entries"] == done["units"] + 10
    assert read_ledger(Objects(url)).open_entries == 0
    driver = commits.driven(tmp_path, 50)
    assert driver["clips_left"] == 50 * commits.CLIPS_PER_SHARD
    assert driver["item_cpu_ms"] > 0
