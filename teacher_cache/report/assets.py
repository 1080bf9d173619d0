"""The page's style and script, as they are put inside it. Nothing is fetched: the page works from a file, offline."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f5f6f8; --card: #ffffff; --well: #eef0f4; --ink: #171a21; --soft: #59616f; --rule: #e1e5eb;
  --accent: #2457c5; --accent-ink: #ffffff; --good: #18794e; --good-ground: #e4f5ec; --bad: #b42318; --bad-ground: #fdeceb;
  --edge: rgb(16 24 40 / .1); --wait: #8a5a00; --wait-ground: #fdf3dc;
  --shadow: 0 1px 2px rgb(16 24 40 / .06), 0 4px 16px rgb(16 24 40 / .05);
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73; --series-4: #b8508d; --series-5: #b87d00; --series-6: #3d94cc;
  --sans: "Inter", system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0e1116; --card: #161b22; --well: #0b0e13; --ink: #e8ebf0; --soft: #98a2b1; --rule: #29303a;
    --accent: #7ea6ff; --accent-ink: #0b1220; --good: #6ddba4; --good-ground: #10301f; --bad: #ff9a90; --bad-ground: #3a1614;
    --edge: rgb(255 255 255 / .1); --wait: #f3c669; --wait-ground: #34280c; --shadow: none;
    --series-1: #5db2f0; --series-2: #ff9350; --series-3: #3fd1a2; --series-4: #ec93c4; --series-5: #f2bd4e;
    --series-6: #9ad4fa;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 var(--sans); }
.page { max-width: 1440px; margin: 0 auto; padding: 40px 28px 72px; }
h1 { margin: 0 0 20px; font-size: 28px; line-height: 1.2; letter-spacing: -.015em; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 0 0 14px; font-size: 19px; letter-spacing: -.01em; font-weight: 620; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }

.facts { display: flex; flex-wrap: wrap; gap: 1px; margin: 0; padding: 0; border: 1px solid var(--rule); border-radius: 12px;
  background: var(--rule); overflow: hidden; }
.facts > div { flex: 1 1 auto; min-width: 128px; max-width: 100%; padding: 12px 18px; background: var(--card); }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 1px 0 0; font-weight: 560; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }

.guide { margin: 14px 0 0; color: var(--soft); font-size: 14px; }
.guide summary { cursor: pointer; width: fit-content; color: var(--accent); }
.guide dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 10px 28px; margin: 12px 0 0; }
.guide dt { color: var(--ink); font-weight: 560; }
.guide dd { margin: 0; }

.bar { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between; gap: 12px; margin: 36px 0 14px; }
.bar h2 { margin: 0; }
.bar p { margin: 0; color: var(--soft); font-size: 14px; }
.card { margin: 0 0 20px; padding: 18px 20px 20px; background: var(--card); border: 1px solid var(--rule); border-radius: 14px;
  box-shadow: var(--shadow); }
.card > header { display: flex; align-items: flex-start; justify-content: space-between; gap: 16px; }
.card h3 { margin: 0; font-size: 16px; font-weight: 600; overflow-wrap: anywhere; }
.card .id { color: var(--soft); font: 12px/1.5 var(--mono); overflow-wrap: anywhere; }
.status { flex: none; padding: 3px 10px; border-radius: 99px; font-size: 12px; font-weight: 560; color: var(--wait);
  background: var(--wait-ground); }
.status.committed { color: var(--good); background: var(--good-ground); }
.status.failed { color: var(--bad); background: var(--bad-ground); }
.why { display: grid; grid-template-columns: auto 1fr; gap: 4px 16px; margin: 14px 0 0; padding: 12px 16px; border-radius: 10px;
  background: var(--bad-ground); }
.why dt { color: var(--soft); }
.why dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.why code { font: 13px/1.6 var(--mono); color: var(--bad); font-weight: 600; }

.controls { display: none; align-items: center; gap: 14px; margin: 14px 0 0; }
.scripted .controls { display: flex; }
button { font: inherit; cursor: pointer; border: 1px solid var(--rule); background: var(--card); color: var(--ink); }
.play { flex: none; display: grid; place-items: center; width: 36px; height: 36px; padding: 0; border-radius: 50%; border: 0;
  background: var(--accent); color: var(--accent-ink); }
.play svg { width: 16px; height: 16px; fill: currentColor; }
.play .pause, .play[aria-pressed=true] .go { display: none; }
.play[aria-pressed=true] .pause { display: block; }
.all { display: none; padding: 7px 16px; border-radius: 99px; font-size: 14px; font-weight: 540; }
.scripted .all { display: inline-block; }
.all:hover { border-color: var(--accent); }
.controls input { flex: 1; min-width: 80px; accent-color: var(--accent); height: 24px; margin: 0; }
.clock { flex: none; min-width: 300px; text-align: right; color: var(--soft); font-size: 13px;
  font-variant-numeric: tabular-nums; }
.clock b { color: var(--ink); font-weight: 600; }

.panels { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 18px 14px; margin: 16px 0 0; }
@media (max-width: 1100px) { .panels { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 620px) {
  .page { padding: 24px 14px 48px; }
  .card { padding: 14px; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .controls { flex-wrap: wrap; }
  .clock { min-width: 0; width: 100%; text-align: left; }
}
figure { margin: 0; min-width: 0; }
figure > h4 { margin: 0 0 6px; font-size: 13px; font-weight: 600; }
figcaption { margin: 7px 0 0; color: var(--soft); font-size: 12px; line-height: 1.45; font-variant-numeric: tabular-nums; }
.tile { position: relative; overflow: hidden; width: 100%; height: 100%; }
.stage { position: relative; border-radius: 8px; overflow: hidden; aspect-ratio: var(--aspect); background: var(--well); }
.stage::after { content: ""; position: absolute; inset: 0; border-radius: inherit; box-shadow: inset 0 0 0 1px var(--edge);
  pointer-events: none; }
.mosaic.stage { background: none; }
.mosaic.stage::after { content: none; }
.tile img { position: absolute; left: 0; top: 0; max-width: none; width: calc(var(--columns) * 100%);
  height: calc(var(--rows) * 100%); }
.pixelated img { image-rendering: pixelated; }
.mosaic { display: grid; grid-template-columns: 1fr 1fr; grid-auto-rows: minmax(0, 1fr); gap: 3px; }
.mosaic > * { min-width: 0; min-height: 0; }
.mosaic .tile { border-radius: 3px; }
.mosaic .wide { grid-column: 1 / -1; }
.tag { position: absolute; left: 5px; bottom: 5px; padding: 0 6px; border-radius: 4px; font-size: 10.5px; line-height: 17px;
  color: #fff; background: rgb(10 12 16 / .62); }
.void { position: absolute; inset: 0; display: none; place-items: center; padding: 12px; text-align: center; font-size: 12px;
  color: var(--soft); background: var(--well); }
.void.on { display: grid; }
.absent { display: grid; place-items: center; aspect-ratio: var(--aspect); border: 1px dashed var(--rule); border-radius: 8px;
  padding: 8px; text-align: center; color: var(--soft); font-size: 12px; }
.missing { margin: 12px 0 0; color: var(--soft); font-size: 12px; }
.scale { height: 8px; border-radius: 4px; }
.ends { display: flex; justify-content: space-between; margin: 2px 0 0; }
.objects { display: flex; flex-wrap: wrap; gap: 2px 10px; }
.objects i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 4px; }
.wheel { display: flex; align-items: center; gap: 9px; }
.wheel img { flex: none; width: 40px; height: 40px; }

.path { display: block; width: 100%; height: 100%; background: var(--well); border-radius: 3px; }
.path-line { fill: none; stroke: var(--soft); stroke-opacity: .6; stroke-width: 1.2; }
.path-dot { fill: var(--soft); }
.cone { visibility: hidden; }
.cone.on { visibility: visible; }
.cone path { fill: var(--accent); fill-opacity: .28; stroke: var(--accent); stroke-width: 1.2; stroke-linejoin: round; }
.cone circle { fill: var(--accent); }

.chart { display: block; width: 100%; max-width: 720px; height: auto; }
.chart text { fill: var(--soft, #59616f); font: 12px var(--sans, sans-serif); font-variant-numeric: tabular-nums; }
.chart .chart-title { fill: var(--ink, #171a21); font-size: 15px; font-weight: 600; }
.chart .chart-name { fill: var(--ink, #171a21); }
.chart-grid { fill: none; stroke: var(--rule, #e1e5eb); }
.chart-axis { fill: none; stroke: var(--soft, #59616f); }
.chart-line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.chart circle { fill: currentColor; }
.section { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px 28px;
  align-items: center; margin-top: 20px; overflow-x: auto; }
.section > p { margin: 0; max-width: 60ch; color: var(--soft); overflow-wrap: anywhere; }
.section table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.section th, .section td { padding: 6px 16px 6px 0; border-bottom: 1px solid var(--rule); text-align: left; }
@media print { .controls, .all { display: none !important; } .card { break-inside: avoid; } }
"""

SCRIPT = """
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");

  function player(card) {
    const total = Number(card.dataset.frames);
    const times = JSON.parse(card.dataset.times), sources = JSON.parse(card.dataset.sources);
    const slider = card.querySelector("input[type=range]"), button = card.querySelector(".play");
    const clock = card.querySelector(".clock");
    const tiles = [...card.querySelectorAll(".tile[data-count]")].map((tile) => ({
      image: tile.querySelector("img"), count: Number(tile.dataset.count),
      columns: Number(tile.dataset.columns), rows: Number(tile.dataset.rows),
    }));
    const marks = [...card.querySelectorAll("[data-frame]")];
    let frame = Number(slider.value), timer = null;

    function show(next) {
      frame = next;
      for (const t of tiles) {
        const i = Math.min(t.count - 1, Math.floor(frame * t.count / total));
        const x = -100 * (i % t.columns) / t.columns, y = -100 * Math.floor(i / t.columns) / t.rows;
        t.image.style.transform = `translate(${x}%, ${y}%)`;
      }
      for (const mark of marks) mark.classList.toggle("on", Number(mark.dataset.frame) === frame);
      const parts = [["frame ", `${frame + 1}`, ` of ${total}`]];
      if (frame in times) parts.push(["at ", times[frame].toFixed(3), " s"]);
      if (frame in sources) parts.push(["source frame ", `${sources[frame]}`, ""]);
      clock.replaceChildren(...parts.flatMap(([before, value, after], i) => {
        const bold = document.createElement("b");
        bold.textContent = value;
        return [(i ? "  ·  " : "") + before, bold, after];
      }));
      slider.value = frame;
      slider.setAttribute("aria-valuetext", clock.textContent.replaceAll("·", ","));
      card.dataset.shown = frame;
    }

    // The clip's own pace, within what the eye can follow.
    const span = times.length > 1 ? 1000 * (times[times.length - 1] - times[0]) / (times.length - 1) : 125;
    const pause = Math.min(400, Math.max(60, Number.isFinite(span) ? span : 125));
    function play(on) {
      if (timer !== null) clearInterval(timer);
      timer = on ? setInterval(() => show((frame + 1) % total), pause) : null;
      button.setAttribute("aria-pressed", String(on));
      button.setAttribute("aria-label", on ? "Pause" : "Play");
    }

    slider.addEventListener("input", () => { play(false); show(Number(slider.value)); });
    slider.addEventListener("keydown", (event) => {
      if (event.key === " ") { event.preventDefault(); play(timer === null); }
    });
    button.addEventListener("click", () => play(timer === null));
    show(frame);
    return { play, playing: () => timer !== null };
  }

  const players = [...document.querySelectorAll(".card[data-frames]")].map(player);
  const all = document.querySelector(".all");
  if (all) all.addEventListener("click", () => {
    const on = !players.some((p) => p.playing());
    for (const p of players) p.play(on);
    all.textContent = on ? "Pause all" : "Play all";
  });
  root.dataset.players = players.length;
})();
"""
