"""Questions that `regionize` kept go to people, as a page or to Label Studio; what they say is checked and applied."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.base import sha256_digest
from schemas.errors import BadInput
from schemas.regionize import KeptQuestion, Review, ReviewPageReport, ReviewReport, Verdict
from student_train.regions.regionize import KEPT, kept_in, write_records
from student_train.regions.review_page import jpeg, render
from teacher_cache.io.output_folder import require_writable, write_json, written_whole
from teacher_cache.regions.phrases import MARK

APPLIED = "review.json"
TASKS, CONFIG = "tasks.json", "labelling.xml"
_FAULTS_SHOWN = 10
_BETWEEN = "\n---\n"
"""What Label Studio's one text has between the question and its options, or between turns."""
_LABELLING = """<View>
  <Image name="picture" value="$picture"/>
  <Header value="Before"/>
  <Text name="before" value="$before"/>
  <Header value="After"/>
  <Text name="after" value="$after"/>
  <Choices name="verdict" toName="after" choice="single" required="true">
    <Choice value="keep" hotkey="k"/>
    <Choice value="fix" hotkey="f"/>
    <Choice value="drop" hotkey="d"/>
  </Choices>
  <TextArea name="fixed" toName="after" value="$after" rows="4" editable="true" maxSubmissions="1"
    visibleWhen="choice-selected" whenTagName="verdict" whenChoiceValue="fix"/>
</View>
"""


def write_review(
    folder: Path, out: Path, *, limit: int | None = None, below: float = 1.0, label_studio: Path | None = None
) -> ReviewPageReport:
    """Write a page to review the questions in a folder of `regionize`, those of which a step is least sure first.

    ``limit``: at most so many questions. ``below``: only those of which a step is no surer, or does not say. Those that an
    applied review has verdicts for are left out. ``label_studio``: a folder that gets the same as tasks of Label Studio, and
    its labelling configuration. Raises `BadInput` if there is nothing to review, or a file cannot be read or written.
    """
    require_writable(out)
    done = _applied(folder).verdicts
    kept = sorted((one for one in kept_in(folder) if one.id not in done and _sureness(one) <= below), key=_sureness)[:limit]
    if not kept:
        raise BadInput(f"{folder} has no question to review: all have verdicts, or every step of them is surer than {below:g}")
    digest = _digest(folder)
    try:
        with written_whole(out) as draft:
            draft.write_text(render(f"Review of {folder.name}", digest, kept, folder), encoding="utf-8")
        if label_studio is not None:
            _write_tasks(label_studio, digest, kept, folder)
    except OSError as error:
        raise BadInput(f"cannot make the review: {error.filename}: {error.strerror}") from None
    tasks = None if label_studio is None else str(label_studio)
    return ReviewPageReport(out=str(out), questions=len(kept), label_studio=tasks)


def apply_review(folder: Path, file: Path, *, only_reviewed: bool = False) -> ReviewReport:
    """Write the folder's ``test.json`` or ``conversations.jsonl`` as a review says, which the page or Label Studio exported.

    Reviews of parts add up; of two verdicts of one question, the later counts. ``only_reviewed``: leave out questions without
    a verdict. Nothing is written unless the whole review fits: raises `BadInput` that lists what does not.
    """
    kept = list(kept_in(folder))
    review = _read(file)
    if review.set != _digest(folder):
        raise BadInput(
            f"{file} reviews other questions than {folder} holds: they were written again since. Make the page again."
        )
    known = {one.id: one for one in kept}
    if faults := list(_faults(review.verdicts, known)):
        more = f"\n  … and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        listed = "\n".join(f"  {fault}" for fault in faults[:_FAULTS_SHOWN])
        raise BadInput(f"{file} does not fit {folder}, and nothing is applied:\n{listed}{more}")
    verdicts = _applied(folder).verdicts | review.verdicts
    written = list(_reviewed(kept, verdicts, only_reviewed=only_reviewed))
    write_records(folder, written)
    write_json(folder / APPLIED, Review(set=review.set, verdicts=verdicts).model_dump(mode="json", exclude_none=True))
    counts = Counter(verdict.verdict for verdict in verdicts.values())
    return ReviewReport(
        out=str(folder),
        questions=len(written),
        kept=counts["keep"],
        fixed=counts["fix"],
        dropped=counts["drop"],
        unreviewed=len(kept) - counts.total(),
    )


def _reviewed(kept: Iterable[KeptQuestion], verdicts: Mapping[str, Verdict], *, only_reviewed: bool) -> Iterator[KeptQuestion]:
    for one in kept:
        verdict = verdicts.get(one.id)
        if verdict is None:
            if not only_reviewed:
                yield one
        elif verdict.verdict == "keep":
            yield one
        elif verdict.texts is not None:
            yield one.model_copy(update={"after": verdict.texts})


def _faults(verdicts: Mapping[str, Verdict], known: Mapping[str, KeptQuestion]) -> Iterator[str]:
    """What of a review does not fit the questions."""
    for name, verdict in verdicts.items():
        one = known.get(name)
        if one is None:
            yield f"{name}: there is no question of that id"
        elif verdict.verdict == "fix":
            yield from (f"{name}: {fault}" for fault in _faults_of_fix(verdict.texts, one))
        elif verdict.texts is not None:
            yield f"{name}: has texts, and its verdict is {verdict.verdict!r}; needed 'fix'"


def _faults_of_fix(texts: Sequence[str] | None, one: KeptQuestion) -> Iterator[str]:
    if texts is None:
        yield "the verdict is 'fix', and there are no texts"
        return
    marks = {int(found) for text in texts for found in MARK.findall(text)}
    there = {part.number for part in one.objects}
    if len(texts) != len(one.after):
        yield f"has {len(texts)} texts; needed {len(one.after)}, as the question has"
    if not all(text.strip() for text in texts):
        yield "a text is empty"
    if absent := sorted(marks - there):
        yield f"names <obj_{absent[0]}>, and its picture has {', '.join(f'<obj_{number}>' for number in sorted(there))}"
    if not marks:
        yield "has no mark; drop it instead"


def _sureness(one: KeptQuestion) -> float:
    """The least confidence of its steps; 0 where a step does not say."""
    return min(0.0 if value is None else value for value in (one.confidence.parse, one.confidence.find, one.confidence.link))


def _digest(folder: Path) -> str:
    try:
        return sha256_digest((folder / KEPT).read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {folder / KEPT}: {error.strerror}") from None


def _applied(folder: Path) -> Review:
    """The reviews that were applied to these questions; none to others that were there before."""
    digest = _digest(folder)
    path = folder / APPLIED
    found = _read(path) if path.exists() else None
    return found if found is not None and found.set == digest else Review(set=digest, verdicts={})


def _read(file: Path) -> Review:
    """The page's export, or Label Studio's."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Review.model_validate(_from_label_studio(found) if isinstance(found, list) else found)
    except OSError as error:
        raise BadInput(f"cannot read the review {file}: {error.strerror}") from None
    except (ValidationError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise BadInput(
            f"{file} is no review: {said}; needed what the page's Export, or Label Studio's as JSON, wrote"
        ) from None


# --- Label Studio ---


def _write_tasks(out: Path, digest: str, kept: Sequence[KeptQuestion], folder: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tasks = [
        {
            "data": {
                "id": one.id,
                "set": digest,
                "picture": jpeg((folder / one.picture).read_bytes()),
                "before": _BETWEEN.join(one.before),
                "after": _BETWEEN.join(one.after),
            }
        }
        for one in kept
    ]
    write_json(out / TASKS, tasks)
    with written_whole(out / CONFIG) as draft:
        draft.write_text(_LABELLING, encoding="utf-8")


def _from_label_studio(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The newest annotation of each task that has one."""
    verdicts: dict[str, dict[str, Any]] = {}
    sets = {task["data"]["set"] for task in tasks}
    if len(sets) != 1:
        raise ValueError(f"its tasks are of {len(sets)} sets of questions")
    for task in tasks:
        done = [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]
        if not done:
            continue
        said = {one["from_name"]: one["value"] for one in done[-1]["result"]}
        verdict: dict[str, Any] = {"verdict": said["verdict"]["choices"][0]}
        if verdict["verdict"] == "fix":
            verdict["texts"] = "\n".join(said["fixed"]["text"]).split(_BETWEEN) if "fixed" in said else None
        verdicts[str(task["data"]["id"])] = verdict
    return {"set": sets.pop(), "verdicts": verdicts}
