"""The review of rewritten questions: the page in a real browser, what it exports, and a review that does not fit."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conftest import Command, is_one_clear_error
from region_scenes import write_region_scenes

from schemas.errors import BadInput
from schemas.regionize import KeptQuestion
from student_train.regions.asked import asked_in
from student_train.regions.linking import ByRules
from student_train.regions.regionize import Wanted, kept_in, regionize
from student_train.regions.review import apply_review, write_review
from student_train.regions.review_page import render
from teacher_cache.io.places import Roots

HOSTILE = "</script><script>document.documentElement.dataset.pwned=1</script><img src=x onerror=alert(1)>&quot;\u202e"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    store = write_region_scenes(folder / "scenes", [0], frames=2)
    linker, roots = ByRules(0.95), Roots((str(folder / "scenes"),), "--video-root")
    questions = asked_in(folder / "scenes/questions.json", None)
    regionize(questions, store, folder / "questions", roots=roots, linker=linker, wanted=Wanted())
    return folder / "questions"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "questions"))


def kept(folder: Path) -> dict[str, KeptQuestion]:
    return {one.id: one for one in kept_in(folder)}


def records(folder: Path) -> dict[str, Any]:
    return {one["id"]: one for one in json.loads((folder / "test.json").read_text())}


def page_of(folder: Path, **wanted: Any) -> str:
    out = folder.parent / "review.html"
    write_review(folder, out, **wanted)
    return out.read_text()


def set_of(page: str) -> str:
    found = re.search(r'"set": "(sha256:\w+)"', page)
    assert found is not None
    return found[1]


def review(folder: Path, verdicts: dict[str, Any], **changes: Any) -> Path:
    path = folder.parent / "given.json"
    path.write_text(json.dumps({"set": set_of(page_of(folder)), "verdicts": verdicts} | changes))
    return path


# --- in a real browser ---


def driven(page: str, steps: str) -> str:
    """The page with a script that presses keys; for that alone, without its policy."""
    script = f"""<script>
      const press = (key, more) => document.dispatchEvent(new KeyboardEvent("keydown", {{key, ...more}}));
      const area = () => document.querySelector("textarea");
      {steps}
      document.documentElement.dataset.driven = "to the end";
    </script></body>"""
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", script)


def dumped(dump_dom: Callable[[str], str], page: str, awaited: str, before: str | None = None) -> str:
    """The DOM, once it has what is awaited. On a busy machine Chromium may end before a script has, or keep nothing of it."""
    for _ in range(5):
        if before is not None:
            dump_dom(before)
        if awaited in (dom := dump_dom(page)):
            break
    return dom


def exported(dom: str) -> Any:
    found = re.search(r'data-exported="([^"]*)"', dom)
    assert found is not None
    return json.loads(html.unescape(found[1]))


def test_questions_are_kept_fixed_and_dropped_by_keyboard_and_applied(folder: Path, dump_dom: Callable[[str], str]) -> None:
    page = page_of(folder)
    shown = [one["id"] for one in json.loads(data_of(page))["questions"]]
    number = kept(folder)[shown[1]].objects[0].number
    steps = f"""
      press("k");
      press("f"); area().value = "Does <obj_99> move?"; press("Enter", {{ctrlKey: true}});
      document.documentElement.dataset.wrong = document.getElementById("wrong").textContent;
      area().value = "Does <obj_{number}> move, Ängel?"; press("k"); press("Enter", {{ctrlKey: true}});
      press("d"); press("d"); press("ArrowLeft"); press("u"); press("x");
    """
    dom = dumped(dump_dom, driven(page, steps), 'data-exported="')
    assert "The picture has no &lt;obj_99&gt;; it has" in dom
    found = exported(dom)
    fixed = [f"Does <obj_{number}> move, Ängel?", *kept(folder)[shown[1]].after[1:]]
    assert found["verdicts"] == {
        shown[0]: {"verdict": "keep"},
        shown[1]: {"verdict": "fix", "texts": fixed},
        shown[2]: {"verdict": "drop"},
    }
    file = folder.parent / "exported.json"
    file.write_text(json.dumps(found))
    before = records(folder)
    report = apply_review(folder, file)
    assert (report.kept, report.fixed, report.dropped, report.unreviewed) == (1, 1, 1, len(shown) - 3)
    after = records(folder)
    assert after.keys() == before.keys() - {shown[2]}
    assert after[shown[1]]["question"] == fixed[0]
    assert after[shown[0]] == before[shown[0]]


def data_of(page: str) -> str:
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return found[1]


def test_progress_stays_in_the_browser_and_the_page_s_own_script_is_all_that_runs(
    original: Path, tmp_path: Path, dump_dom: Callable[[str], str]
) -> None:
    """The second time, the page is opened with its policy, and shows the first question without a verdict."""
    out = tmp_path / "review.html"
    some = list(kept_in(original))[:3]
    hostile = some[2].model_copy(update={"after": (HOSTILE, *some[2].after[1:]), "id": HOSTILE})
    page = render(HOSTILE, "sha256:0", [*some[:2], hostile], original)
    out.write_text(page)
    dom = dumped(dump_dom, page, 'data-said="2"', before=driven(page, 'press("k"); press("d");'))
    root = dom.split(">", 2)[1]
    assert 'data-said="2"' in root
    assert 'data-at="2"' in root
    assert "data-pwned" not in root
    assert "2 of 3: 1 kept, 0 fixed, 1 dropped" in dom
    assert len(re.findall("<img", dom.replace(data_of(dom), ""))) == 1


def test_a_page_is_one_file(folder: Path) -> None:
    page = page_of(folder)
    assert set(re.findall(r'(?:src|href)="([^"]{0,5})', page)) <= {"data:"}
    assert "url(" not in page
    assert len(json.loads(data_of(page))["pictures"]) < len(kept(folder))  # questions about the same objects share one


# --- what does not fit ---


def test_a_review_that_does_not_fit_changes_nothing(folder: Path) -> None:
    one = next(iter(kept(folder).values()))
    texts = list(one.after)
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "id": ({"other": {"verdict": "keep"}}, "other: there is no question of that id"),
        "mark": ({one.id: {"verdict": "fix", "texts": ["<obj_77>?", *texts[1:]]}}, "names <obj_77>, and its picture has <obj_"),
        "none": ({one.id: {"verdict": "fix", "texts": ["So?", *["a"] * len(texts[1:])]}}, "has no mark; drop it instead"),
        "count": ({one.id: {"verdict": "fix", "texts": texts[:1]}}, f"has 1 texts; needed {len(texts)}"),
        "without": ({one.id: {"verdict": "fix"}}, "there are no texts"),
        "empty": ({one.id: {"verdict": "fix", "texts": [*texts[:-1], " "]}}, "a text is empty"),
        "kept": ({one.id: {"verdict": "keep", "texts": texts}}, "has texts, and its verdict is 'keep'"),
    }
    before = (folder / "test.json").read_bytes()
    for verdicts, said in wrong.values():
        with pytest.raises(BadInput, match="nothing is applied") as raised:
            apply_review(folder, review(folder, verdicts))
        assert said in str(raised.value)
    for content in ("", "[]", "{}", '{"set": 3}', "\x00", '{"set": "x", "verdicts": {"a": {"verdict": "burn"}}}', "[3]"):
        (folder.parent / "bad.json").write_text(content)
        with pytest.raises(BadInput, match="is no review"):
            apply_review(folder, folder.parent / "bad.json")
    with pytest.raises(BadInput, match="reviews other questions"):
        apply_review(folder, review(folder, {}, set="sha256:1"))
    assert (folder / "test.json").read_bytes() == before
    assert not (folder / "reviewed.json").exists()


def test_reviews_of_parts_add_up_and_what_is_done_is_not_asked_again(folder: Path) -> None:
    names = [*kept(folder)]
    apply_review(folder, review(folder, {names[0]: {"verdict": "drop"}, names[1]: {"verdict": "drop"}}))
    left = [one["id"] for one in json.loads(data_of(page_of(folder, limit=3)))["questions"]]
    assert len(left) == 3
    assert not {*left} & {*names[:2]}
    report = apply_review(folder, review(folder, {names[1]: {"verdict": "keep"}}), only_reviewed=True)
    assert (report.kept, report.dropped, report.questions) == (1, 1, 1)
    assert [*records(folder)] == [names[1]]
    with pytest.raises(BadInput, match="has no question to review"):
        write_review(folder, folder.parent / "none.html", below=0.1)


def test_label_studio_s_tasks_come_back_annotated(folder: Path, student_train_command: Command) -> None:
    studio = folder.parent / "studio"
    out = folder.parent / "page.html"
    done = student_train_command("data", "review", folder, "--out", out, "--label-studio", studio, "--json")
    assert done.status == 0, done.err
    tasks = json.loads((studio / "tasks.json").read_text())
    assert done.json["questions"] == len(tasks) == len(kept(folder))
    labels = ET.parse(studio / "labelling.xml").getroot()
    assert {part.get("value") for part in labels if (part.get("value") or "").startswith("$")} == {
        f"${name}" for name in tasks[0]["data"] if name not in {"id", "set"}
    }
    assert tasks[0]["data"]["picture"].startswith("data:image/jpeg;base64,")

    def annotated(task: Any, verdict: str, text: str | None = None) -> Any:
        result = [{"from_name": "verdict", "to_name": "after", "type": "choices", "value": {"choices": [verdict]}}]
        if text is not None:
            result.append({"from_name": "fixed", "to_name": "after", "type": "textarea", "value": {"text": [text]}})
        return task | {"annotations": [{"result": [], "was_cancelled": True}, {"result": result, "was_cancelled": False}]}

    fix = tasks[1]["data"]["after"].replace("?", ", please?", 1)
    export = [annotated(tasks[0], "drop"), annotated(tasks[1], "fix", fix), *tasks[2:]]
    file = folder.parent / "export.json"
    file.write_text(json.dumps(export))
    done = student_train_command("data", "review-apply", folder, file, "--json")
    assert (done.json["dropped"], done.json["fixed"]) == (1, 1)
    assert records(folder)[tasks[1]["data"]["id"]]["question"].endswith(", please?")
    done = student_train_command("data", "review-apply", folder.parent, file)
    is_one_clear_error(done, 2, "has no kept.jsonl")
