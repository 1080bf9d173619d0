"""Scores, and what was shown for wrong answers, go in; a page in Markdown and one in HTML come out.

What benchmarks and models say is escaped, and the page's content security policy allows no script.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from schemas.evaluation import Answer, AnswersReport
from student_train.evaluation import score_tables
from student_train.evaluation.asking import Asked, Questions
from student_train.evaluation.generating import Pixels
from teacher_cache.io.console import printable_lines

MARKDOWN, HTML = "answers.md", "answers.html"
_FRAMES_SHOWN = 6
_LEFT_OUT = "Questions that were not asked, or have no right answer"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}"
    "th,td{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}td{white-space:nowrap}pre{white-space:pre-wrap;background:#f6f6f6;"
    "padding:.6rem}section{border-top:1px solid #bbb;padding:.5rem 0}figure{display:inline-block;margin:.2rem}"
    "figure img{display:block;width:10rem}figcaption{font-size:.8rem;color:#666}.wide{overflow-x:auto}"
)


class Wrong(NamedTuple):
    """A wrong answer, and what the model was shown."""

    answer: Answer
    pictures: tuple[tuple[str, Pixels], ...]
    """(caption, picture (y, x, RGB)), in the order in which they were shown; some frames of the video stand for all."""


def wrong_answers(questions: Questions, answers: Sequence[Answer], count: int) -> list[Wrong]:
    """The first ``count`` answers that are wrong by the official rule. Their videos are read once more."""
    numbers = [number for number, answer in enumerate(answers) if answer.official is not None and answer.official < 1]
    found = []
    for number in numbers[:count]:
        asked = questions[number]
        found.append(Wrong(answers[number], tuple(_pictures(asked)) if isinstance(asked, Asked) else ()))
    return found


def _pictures(asked: Asked) -> Iterator[tuple[str, Pixels]]:
    for number, image in enumerate(asked.prompt.images, 1):
        yield f"image {number}", image
    if (watched := asked.prompt.watched) is not None:
        count = len(watched.frames)
        for index in np.unique(np.round(np.linspace(0, count - 1, min(count, _FRAMES_SHOWN))).astype(int)):
            yield f"{watched.timestamps[index]:.2f} s", watched.frames[index]


def write_pages(out: Path, model: str, report: AnswersReport, wrong: Sequence[Wrong]) -> None:
    """Write both pages to a folder."""
    title = f"{model}: {report.benchmark}"
    parts = [f"# {title}", *map(score_tables.markdown, score_tables.of(report))]
    parts.append("\n".join(f"- {line}" for line in score_tables.about(report)))
    if left_out := score_tables.left_out(report):
        parts += [f"## {_LEFT_OUT}", "\n".join(f"- {' '.join(line.split())}" for line in left_out)]
    (out / MARKDOWN).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (out / HTML).write_text(_page(title, report, wrong), encoding="utf-8")


def _page(title: str, report: AnswersReport, wrong: Sequence[Wrong]) -> str:
    tables = "".join(map(_table, score_tables.of(report)))
    left_out = score_tables.left_out(report)
    listed = f"<h2>{_LEFT_OUT}</h2>{_list(left_out)}" if left_out else ""
    heading = "<h2>Wrong answers</h2>" if wrong else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
        f"<title>{_escaped(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_escaped(title)}</h1>"
        f"{tables}{_list(score_tables.about(report))}{listed}{heading}{''.join(map(_section, wrong))}</body></html>\n"
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_escaped(line)}</li>' for line in lines)}</ul>"


def _table(table: score_tables.TextTable) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{_escaped(cell)}</{kind}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in table.rows)
    return f'<div class="wide"><table><thead>{line(table.header, "th")}</thead><tbody>{body}</tbody></table></div>'


def _section(wrong: Wrong) -> str:
    answer = wrong.answer
    pictures = "".join(
        f'<figure><img alt="{_escaped(caption)}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
        f"<figcaption>{_escaped(caption)}</figcaption></figure>"
        for caption, picture in wrong.pictures
    )
    said = f"said {answer.response!r}, read as {answer.parsed or 'nothing'} ({answer.rule or 'no rule'})"
    needed = answer.fault or f"right: {answer.expected}"
    lenient = "right" if answer.lenient == 1 else f"wrong ({answer.lenient_rule or 'nothing found'})"
    return (
        f"<section><h3>{_escaped(answer.id)} · {_escaped(answer.task)}</h3>{pictures}<pre>{_escaped(answer.prompt or '')}</pre>"
        f"<p>{_escaped(said)}; {_escaped(needed)}; leniently {_escaped(lenient)}. {_escaped(answer.video)}</p></section>"
    )


def _escaped(text: str) -> str:
    return html.escape(printable_lines(text))


def _jpeg(picture: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
