"""Rewritten questions and their pictures in; one HTML file in which people keep, fix or drop each, with the keyboard, out.

It works from a file, without a network. Texts reach the page as JSON and are shown as text alone, and its content security
policy allows its own script and no other.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from schemas.regionize import KeptQuestion
from teacher_cache.io.console import printable
from teacher_cache.regions.marks import color_of, ink_on

_QUALITY = 90


def render(title: str, questions_set: str, kept: Sequence[KeptQuestion], folder: Path) -> str:
    """The page, to be written as UTF-8. ``questions_set``: the digest that its export names; ``folder``: where pictures are."""
    pictures: dict[bytes, int] = {}
    shown = [_shown(one, pictures.setdefault((folder / one.picture).read_bytes(), len(pictures))) for one in kept]
    data = {"set": questions_set, "questions": shown, "pictures": [jpeg(png) for png in pictures]}
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    name = html.escape(printable(title))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body>{_BODY.replace('TITLE', name)}"
        f'<script type="application/json" id="data">{_embedded(data)}</script>\n<script>{_SCRIPT}</script></body></html>\n'
    )


def jpeg(png: bytes) -> str:
    """A picture's file as a ``data:`` URL of a JPEG file."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _shown(one: KeptQuestion, picture: int) -> dict[str, Any]:
    sure = {"parse": one.confidence.parse, "box": one.confidence.find, "link": one.confidence.link}
    return {
        "id": one.id,
        "picture": picture,
        "before": one.before,
        "after": one.after,
        "objects": [
            {
                "number": part.number,
                "phrase": part.phrase,
                "color": _css(color_of(part.number)),
                "ink": _css(ink_on(color_of(part.number))),
            }
            for part in one.objects
        ],
        "right": one.record.get("right"),
        "unlinked": [f"{phrase.text} ({phrase.reason})" for phrase in one.phrases if not phrase.numbers],
        "sure": {name: value for name, value in sure.items() if value is not None},
    }


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _embedded(data: Any) -> str:
    """JSON that no HTML parser takes for markup, whatever its texts are; half characters as escapes."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_STYLE = """
:root { color-scheme: light dark; --ground: #f5f6f8; --card: #fff; --ink: #171a21; --soft: #59616f; --rule: #dfe3e9;
  --keep: #18794e; --fix: #2457c5; --drop: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1116; --card: #161b22; --ink: #e8ebf0; --soft: #98a2b1;
  --rule: #29303a; --keep: #6ddba4; --fix: #7ea6ff; --drop: #ff9a90; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
header { position: sticky; top: 0; z-index: 1; padding: 10px 24px; background: var(--card);
  border-bottom: 1px solid var(--rule);
  display: flex; flex-wrap: wrap; gap: 6px 20px; align-items: center; }
h1 { margin: 0; font-size: 16px; overflow-wrap: anywhere; }
#counts { color: var(--soft); font-variant-numeric: tabular-nums; }
progress { flex: 1; min-width: 120px; height: 8px; accent-color: var(--keep); }
main { display: grid; grid-template-columns: minmax(0, 1fr) minmax(320px, 1fr); gap: 24px; max-width: 1500px; margin: 0 auto;
  padding: 20px 24px 48px; align-items: start; }
@media (max-width: 800px) { main { grid-template-columns: minmax(0, 1fr); } }
#picture { width: 100%; max-height: 78vh; object-fit: contain; border-radius: 8px; background: #000; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 18px; margin: 0 0 14px; }
h2 { margin: 0 0 6px; font-size: 12px; font-weight: 600; color: var(--soft); }
#id { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
ol { margin: 0; padding: 0; list-style: none; }
li { white-space: pre-wrap; overflow-wrap: anywhere; }
li + li { padding-left: 1.2em; }
li.right::after { content: " ✓"; color: var(--keep); }
mark { padding: 0 5px; border-radius: 4px; border: 1px solid #000; font-weight: 600; }
.buttons { display: flex; flex-wrap: wrap; gap: 8px; }
button { font: inherit; padding: 6px 14px; border-radius: 8px; border: 1px solid var(--rule); background: var(--card);
  color: var(--ink); cursor: pointer; }
button[aria-pressed=true] { color: var(--card); border-color: transparent; }
#keep[aria-pressed=true] { background: var(--keep); } #fix[aria-pressed=true] { background: var(--fix); }
#drop[aria-pressed=true] { background: var(--drop); }
kbd { font: 12px ui-monospace, "DejaVu Sans Mono", monospace; padding: 0 5px; border: 1px solid var(--rule);
  border-radius: 4px; }
textarea { width: 100%; font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--rule);
  border-radius: 6px; padding: 6px 8px; margin: 0 0 6px; }
#wrong { color: var(--drop); min-height: 1.5em; margin: 0 0 6px; }
:focus-visible { outline: 2px solid var(--fix); outline-offset: 2px; }
"""

_BODY = """
<header><h1>TITLE</h1><progress id="progress" value="0" max="1"></progress><span id="counts" role="status"></span>
<button type="button" id="export">Export <kbd>x</kbd></button></header>
<main><div><img id="picture" alt="The first frame, with numbered marks"></div><div>
<section><div id="id"></div><h2>Before</h2><ol id="before"></ol></section>
<section><h2>After</h2><ol id="after"></ol></section>
<section id="editor" hidden><h2>Fix</h2><div id="texts"></div><p id="wrong" role="alert"></p>
<button type="button" id="save">Save <kbd>Ctrl</kbd> <kbd>Enter</kbd></button>
<button type="button" id="cancel">Cancel <kbd>Esc</kbd></button></section>
<section><div class="buttons"><button type="button" id="keep">Keep <kbd>k</kbd></button>
<button type="button" id="fix">Fix <kbd>f</kbd></button><button type="button" id="drop">Drop <kbd>d</kbd></button>
<button type="button" id="clear">Undo <kbd>u</kbd></button><button type="button" id="previous">Back <kbd>←</kbd></button>
<button type="button" id="next">Next <kbd>→</kbd></button>
<button type="button" id="open">Next without a verdict <kbd>n</kbd></button></div></section>
<section><h2>Objects, and how sure each step is</h2><ol id="objects"></ol><p id="sure"></p></section></div></main>
"""

_SCRIPT = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), key = `p4d-review:${data.set}`;
  const find = (name) => document.getElementById(name);
  let at = 0, verdicts = {}, isKept = true;
  try { verdicts = JSON.parse(localStorage.getItem(key)) || {}; } catch { isKept = false; }

  function remember() {
    try { localStorage.setItem(key, JSON.stringify(verdicts)); isKept = true; } catch { isKept = false; }
  }

  // Text with each mark in its object's colour; nothing of it is ever markup.
  function line(text, objects, isRight) {
    const item = document.createElement("li");
    for (const piece of text.split(/(<obj_\\d+>)/)) {
      const found = /^<obj_(\\d+)>$/.exec(piece), object = found && objects.find((o) => o.number === Number(found[1]));
      if (!object) { item.append(piece); continue; }
      const mark = document.createElement("mark");
      mark.textContent = piece;
      mark.style.background = object.color;
      mark.style.color = object.ink;
      item.append(mark);
    }
    item.classList.toggle("right", isRight);
    return item;
  }

  function show(next) {
    at = Math.min(data.questions.length - 1, Math.max(0, next));
    const one = data.questions[at], verdict = verdicts[one.id], after = verdict?.texts || one.after;
    find("editor").hidden = true;
    find("picture").src = data.pictures[one.picture];
    find("id").textContent = `${at + 1} of ${data.questions.length} · ${one.id}`;
    const lines = (texts, objects) => texts.map((t, n) => line(t, objects, one.right !== null && n === one.right + 1));
    find("before").replaceChildren(...lines(one.before, []));
    find("after").replaceChildren(...lines(after, one.objects));
    find("objects").replaceChildren(...one.objects.map((o) => line(`<obj_${o.number}> ${o.phrase}`, one.objects, false)),
      ...one.unlinked.map((text) => line(`no mark: ${text}`, [], false)));
    find("sure").textContent = Object.entries(one.sure).map(([name, value]) => `${name} ${value.toFixed(2)}`).join(" · ");
    for (const name of ["keep", "fix", "drop"]) find(name).setAttribute("aria-pressed", String(verdict?.verdict === name));
    count();
  }

  function count() {
    const said = data.questions.map((one) => verdicts[one.id]?.verdict).filter(Boolean);
    const of = (name) => said.filter((one) => one === name).length;
    find("progress").max = data.questions.length || 1;
    find("progress").value = said.length;
    find("counts").textContent = `${said.length} of ${data.questions.length}: ${of("keep")} kept, ${of("fix")} fixed, ` +
      `${of("drop")} dropped` + (isKept ? "" : " · this browser keeps no progress: export before you close the page");
    document.documentElement.dataset.at = at;
    document.documentElement.dataset.said = said.length;
  }

  function say(verdict) {
    verdicts[data.questions[at].id] = verdict;
    remember();
    show(at + 1);
  }

  function edit() {
    const one = data.questions[at], texts = verdicts[one.id]?.texts || one.after;
    find("texts").replaceChildren(...texts.map((text) => {
      const area = document.createElement("textarea");
      area.value = text;
      area.rows = Math.min(6, 1 + Math.ceil(text.length / 60));
      return area;
    }));
    find("wrong").textContent = "";
    find("editor").hidden = false;
    find("texts").firstElementChild.focus();
  }

  // The same that the command checks when it applies the review.
  function fault(texts) {
    const numbers = data.questions[at].objects.map((o) => o.number);
    const marks = texts.flatMap((text) => [...text.matchAll(/<obj_(\\d+)>/g)].map((found) => Number(found[1])));
    const absent = marks.find((mark) => !numbers.includes(mark));
    if (texts.some((text) => !text.trim())) return "A text is empty.";
    const there = numbers.map((n) => `<obj_${n}>`).join(", ");
    if (absent !== undefined) return `The picture has no <obj_${absent}>; it has ${there}.`;
    return marks.length ? "" : "No text has a mark. Drop the question instead.";
  }

  function save() {
    const texts = [...find("texts").children].map((area) => area.value), wrong = fault(texts);
    find("wrong").textContent = wrong;
    if (!wrong) say({ verdict: "fix", texts });
  }

  function exported() {
    const link = document.createElement("a");
    const text = JSON.stringify({ set: data.set, verdicts }, null, 1);
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "review.json";
    link.click();
    document.documentElement.dataset.exported = text;
  }

  function open() {
    const order = data.questions.map((_, n) => (at + 1 + n) % data.questions.length);
    const found = order.find((n) => !verdicts[data.questions[n].id]);
    if (found !== undefined) show(found);
  }

  const actions = {
    keep: ["k", () => say({ verdict: "keep" })], fix: ["f", edit], drop: ["d", () => say({ verdict: "drop" })],
    clear: ["u", () => { delete verdicts[data.questions[at].id]; remember(); show(at); }],
    previous: ["ArrowLeft", () => show(at - 1)], next: ["ArrowRight", () => show(at + 1)], open: ["n", open],
    export: ["x", exported],
  };
  for (const [name, [, act]] of Object.entries(actions)) find(name).addEventListener("click", act);
  find("save").addEventListener("click", save);
  find("cancel").addEventListener("click", () => show(at));
  document.addEventListener("keydown", (event) => {
    if (!find("editor").hidden) {
      if (event.key === "Escape") show(at);
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
      else return;
    } else {
      const action = Object.values(actions).find(([pressed]) => pressed === event.key);
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      action[1]();
    }
    event.preventDefault();
  });
  show(0);
  if (verdicts[data.questions[0].id]) open();
})();
"""
