"""One hostile name, in everything that comes from outside, through every command to every place where it is shown."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Command, Finished, Jobs, tree
from log_files import reseal, rewrite
from markdown_it import MarkdownIt
from terminal import Terminal
from typer.main import get_command

from schemas.recipe import Recipe
from student_train.cli import app as student_train
from teacher_cache.cli import app as teacher_cache
from teacher_cache.io import console
from teacher_cache.store.catalog import _with_keys
from teacher_cache.store.log import checkpoint_file
from teacher_cache.store.state import UNITS
from teacher_cache.store.store import open_store
from teacher_cache.store.table import table_file

HOSTILE = "\x1b]0;pwned\x07\x1b[2J[red]<script>document.title='pwned'</script>:boom:\u202e\x9b31m\r\nerror: forged"
FILE_NAME = HOSTILE.replace("/", "") + ".mp4"
# Of a name without control characters, which a manifest takes.
ALLOWED = "[red]<script>document.title='pwned'</script>:boom:\u202e"
# All control characters but line break and tab, whatever reorders text, and line separators.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def forged(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose every free text is hostile, sealed as whoever may write there can: digests are no signatures."""
    store = tmp_path_factory.mktemp("forged") / "store"
    shutil.copytree(tiny_store, store)
    root = json.loads((store / "zarr.json").read_bytes())
    recipe: dict[str, Any] = root["attributes"]["recipe"]
    recipe["teacher"] |= {"family": HOSTILE, "weights": HOSTILE, "config": recipe["teacher"]["config"] | {HOSTILE: HOSTILE}}
    fingerprint = Recipe.model_validate(recipe).fingerprint
    root["attributes"] |= {"fingerprint": fingerprint}
    (store / "zarr.json").write_text(json.dumps(root))
    rewrite(store, lambda action: action.update(fingerprint=fingerprint), "store_created")
    rewrite(store, lambda action: _rename(store, action), "rows_added")
    rewrite(store, _fail_the_first_row)
    reseal(store, lambda record: record.update(writer=HOSTILE))
    (store / "depth" / FILE_NAME).write_text("garbage")
    return store


def _rename(store: Path, action: dict[str, Any]) -> None:
    rows = pq.read_table(store / action["table"]["key"])
    texts = {name: [HOSTILE, ALLOWED, *rows[name].to_pylist()[2:]] for name in ("clip_id", "video", "video_id")}
    for name, values in texts.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    file, data = table_file(
        "rows-0000000000", _with_keys(rows.select([n for n in rows.column_names if "key" not in n and "check" not in n]))
    )
    (store / file.key).write_bytes(data)
    action["table"] = file.model_dump()


def _fail_the_first_row(action: dict[str, Any]) -> None:
    first = action["shard"] * 2
    action["failed"] = [{"row": first, "reason": "decode_error", "detail": HOSTILE}]
    action["decoders"] = {HOSTILE: [first + 1]}
    for figures in action["figures"]:
        kept = [index for index, row in enumerate(figures["rows"]) if row != first]
        figures |= {name: [figures[name][index] for index in kept] for name in ("rows", "measured", "relative_rms")}
        figures["measure"] = HOSTILE


@pytest.fixture
def hostile_run(tmp_path: Path, tiny_store: Path, videos: Path) -> Path:
    """A training file about conversations of which one is about a video of that name."""
    turns = [{"from": "human", "value": f"<video>\n{HOSTILE}"}, {"from": "gpt", "value": HOSTILE}]
    named = [{"id": HOSTILE, "video": name, "conversations": turns} for name in (HOSTILE, "scene-0.mp4")]
    (tmp_path / FILE_NAME).write_text(json.dumps(named))
    data = {"conversations": str(tmp_path / FILE_NAME), "video_root": str(videos), "without_targets": "drop"}
    file = tmp_path / "train.yaml"
    settings = {
        "store": str(tiny_store),
        "output": str(tmp_path / f"run {FILE_NAME}"),
        "mode": "latent",
        "steps": 1,
        "batch": 1,
    }
    file.write_text(yaml.safe_dump(settings | {"data": data}, allow_unicode=True))
    return file


def shows_only_text(done: Finished, *shown: str) -> None:
    """Nothing that a terminal obeys, no markup taken for a style, no second message made of a name's line break."""
    for text in (done.out, done.err):
        assert not OBEYED.search(text), OBEYED.search(text)
        assert "\nerror: forged" not in text
    assert "Traceback" not in done.err
    for part in shown:
        assert part in re.sub(r"\s+", "", done.out + done.err), part


SHOWN = r"\x1b]0;pwned\x07\x1b[2J[red]<script>"


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consoles on which a table breaks no text, whatever the terminal of the tests says."""
    for its in (console.stdout, console.stderr):
        monkeypatch.setattr(its, "_width", 4000)


@pytest.mark.usefixtures("wide")
def test_teacher_cache_shows_it_as_text(
    forged: Path, jobs: Jobs, tmp_path: Path, teacher_cache_command: Command, dump_dom: Callable[[str], str]
) -> None:
    (tmp_path / "broken").write_text("no video")
    manifest, job = tmp_path / FILE_NAME, jobs.write(forged)
    manifest.write_text("\n".join(json.dumps({"uri": str(tmp_path / "broken"), "id": f"{ALLOWED}{n}"}) for n in range(2)))
    broken = jobs.write(tmp_path / FILE_NAME / "no store", videos={"manifest": str(tmp_path / "no" / FILE_NAME)})
    new = jobs.write(tmp_path / "new", videos={"manifest": str(manifest)}, signals=["depth"])
    card = tmp_path / f"card {FILE_NAME}.md"
    page, events = tmp_path / f"page {FILE_NAME}.html", tmp_path / f"events {FILE_NAME}"
    calls: dict[str, list[tuple[list[object], int, str]]] = {
        "plan": [([job], 2, SHOWN), ([broken], 2, SHOWN), ([new], 0, "")],
        "run": [([job], 2, SHOWN), ([new, "--events", events, "--log-every", "0.1"], 1, ALLOWED[:-1] + r"\u202e0")],
        "status": [([forged], 1, SHOWN), ([forged, "--watch"], 1, SHOWN), ([tmp_path / HOSTILE], 2, SHOWN)],
        "verify": [([forged], 1, f"depth/{SHOWN}")],
        "diff": [([forged, jobs.write(tmp_path / "else")], 1, SHOWN)],
        "view": [([forged, "--out", page], 0, SHOWN), ([forged, "--clip", f"no {HOSTILE}"], 2, SHOWN)],
        "stats": [([forged, "--card", card], 0, SHOWN)],
        "marks": [([tmp_path / HOSTILE, "--out", tmp_path / "marks"], 2, SHOWN)],
        "log": [([forged], 0, SHOWN)],
        "gc": [([forged, "--dry-run"], 0, f"depth/{SHOWN}")],
        "scenes": [([tmp_path / FILE_NAME / "scenes"], 2, SHOWN)],
        "doctor": [([tmp_path / HOSTILE], 2, SHOWN)],
        "demo": [(["--out", tmp_path / FILE_NAME / "demo"], 2, SHOWN)],
    }
    assert calls.keys() == get_command(teacher_cache).commands.keys()
    for name, uses in calls.items():
        for arguments, status, shown in uses:
            done = teacher_cache_command(name, *arguments, COLUMNS="4000")
            assert done.status == status, (name, done.out + done.err)
            shows_only_text(done, shown)
            if "--watch" not in arguments:
                told = teacher_cache_command(name, *arguments, "--json")
                shows_only_text(told)
                told.json  # noqa: B018  # it is JSON
    assert teacher_cache_command("status", forged, "--json").json["failures"][0]["clip_id"] == HOSTILE
    assert not OBEYED.search(events.read_text())
    assert [json.loads(line)["event"] for line in events.read_text().splitlines()][-1] == "run_finished"

    written = card.read_text(encoding="utf-8")
    assert "[red]<script>" in written.replace("\\", "")
    assert "<script" not in MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(written)
    assert not OBEYED.search(written)

    dom = dump_dom(page.read_text(encoding="utf-8"))
    assert 'data-players="' in dom  # the page's own script ran
    assert "<title>Teacher's targets" in dom
    assert "<script>document" not in page.read_text(encoding="utf-8")
    assert not OBEYED.search(page.read_text(encoding="utf-8"))


def test_student_train_shows_it_as_text(
    hostile_run: Path, tmp_path: Path, videos: Path, student_train_command: Command
) -> None:
    run = tmp_path / f"run {FILE_NAME}"
    question = {"id": HOSTILE, "benchmark": HOSTILE, "video": "scene-0.mp4", "question": HOSTILE}
    asked = [question | {"task": HOSTILE, "options": [HOSTILE, "b"], "answer": "b"}, question | {"task": HOSTILE, "answer": 3}]
    (tmp_path / "questions.json").write_text(json.dumps([*asked, asked[0] | {"video": HOSTILE}]))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({HOSTILE: 1}))
    swept = {"train": hostile_run.name, "output": str(tmp_path / f"sweep {FILE_NAME}"), "grid": {"seed": [1]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(swept, allow_unicode=True))
    maps = ["--questions", tmp_path / "questions.json", "--video-root", videos]
    calls: dict[str, list[tuple[list[object], int]]] = {
        "fit": [([hostile_run], 0), ([hostile_run], 2)],
        "eval": [([run, *maps, "--limit", "3"], 1), ([tmp_path / HOSTILE], 2)],
        "export": [([run, "--out", tmp_path / f"export {FILE_NAME}"], 0)],
        "ablation": [(["--settings", tmp_path / "settings.yaml"], 2)],
        "sweep": [([tmp_path / "grid.yaml"], 0), ([tmp_path / "settings.yaml"], 2)],
        "swap-marks": [([run, tmp_path / "questions.json", "--regions", tmp_path / HOSTILE], 2)],
        "data": [
            (["check", hostile_run], 1),
            (["convert", tmp_path / HOSTILE, "--out", tmp_path / "data"], 2),
            (["phrases", tmp_path / "questions.json", "--out", tmp_path / "videos.jsonl"], 2),
            (["review", tmp_path / HOSTILE], 2),
        ],
    }
    assert calls.keys() == get_command(student_train).commands.keys()
    for name, uses in calls.items():
        for arguments, status in uses:
            done = student_train_command(name, *arguments, COLUMNS="4000")
            assert done.status == status, (name, done.out + done.err)
            shows_only_text(done, SHOWN)
    assert {path.split("/")[0] for path in tree(tmp_path)} <= {
        FILE_NAME, "train.yaml", "questions.json", "settings.yaml", "grid.yaml",
        f"run {FILE_NAME}", f"export {FILE_NAME}", f"sweep {FILE_NAME}",
    }  # fmt: skip


def test_a_terminal_obeys_the_command_alone(forged: Path, tmp_path: Path, terminals: list[Terminal]) -> None:
    """Where rich moves the cursor itself, as the live view does. A reason is not checked where a checkpoint tells it."""
    shutil.copytree(forged, tmp_path / "store")
    state = open_store(str(tmp_path / "store")).state
    units = state.units.to_pylist()
    for unit in units:
        unit["failed"] = [failed | {"reason": HOSTILE} for failed in unit["failed"]]
    fields = {name: getattr(state, name) for name in ("version", "tip", "origin", "others")}
    key, data = checkpoint_file(SimpleNamespace(**fields, units=pa.Table.from_pylist(units, UNITS)))
    (tmp_path / "store" / key).write_bytes(data)
    program = str(Path(sys.executable).parent / "teacher-cache")
    terminal = Terminal([program, "status", str(tmp_path / "store"), "--watch", "--every", "0.1"], columns=200)
    terminals.append(terminal)
    terminal.end()
    assert f"1 failed   {SHOWN}" in terminal.text
    for payload in ("\x1b]0;", "\x1b[2J", "\x07", "\x9b", "\u202e"):
        assert payload not in terminal.text


def test_a_record_that_says_it_where_it_may_not_is_refused_in_plain_text(
    tiny_store: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    shutil.copytree(tiny_store, tmp_path / "store")
    rewrite(tmp_path / "store", lambda action: action.update(failed=[{"row": 0, "reason": HOSTILE, "detail": HOSTILE}]))
    done = teacher_cache_command("status", tmp_path / "store")
    assert done.status == 3
    shows_only_text(done)
