"""How the page looks and the little that it does: light and dark by the reader's setting, figures redrawn when that changes."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbf8; --card: #ffffff; --text: #1c2320; --quiet: #66706a; --line: #e1e5df; --accent: #0a7c57;
  --limoe: #0a8f62; --dense: #2c6fdb; --clip: #cf620a;
  --good: #08694a; --good-back: #ddf2e8; --bad: #a8231b; --bad-back: #fbe6e3; --quiet-back: #eff1ed;
  --heat0: #eef3ef; --heat1: #075f43; --band: rgba(10, 143, 98, .16); --chance: #a8b0aa;
  --series0: #0a8f62; --series1: #8a4fd3; --series2: #cf620a; --series3: #2c6fdb; --series4: #c2317c; --series5: #7a7a12;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111412; --card: #191d1b; --text: #e5eae7; --quiet: #98a39c; --line: #2d332f; --accent: #4fd39c;
    --limoe: #3fcf95; --dense: #78aaff; --clip: #ff9c47;
    --good: #6fe0b0; --good-back: #14332a; --bad: #ff9389; --bad-back: #3b1f1c; --quiet-back: #222724;
    --heat0: #1c221f; --heat1: #43d69b; --band: rgba(63, 207, 149, .2); --chance: #59625c;
    --series0: #3fcf95; --series1: #b794f6; --series2: #ff9c47; --series3: #78aaff; --series4: #f27fb5; --series5: #c9c94f;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
.eyebrow { margin: 0 0 .75rem; color: var(--accent); font-weight: 600; }
h1 { margin: 0 0 1.25rem; font-size: clamp(1.5rem, 1.05rem + 2.2vw, 2.25rem); line-height: 1.22; font-weight: 680;
  letter-spacing: -.015em; text-wrap: balance; }
h2 { margin: 3.5rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); font-size: 1.35rem; line-height: 1.3;
  letter-spacing: -.01em; }
p, ul { max-width: 46rem; margin: .75rem 0; }
ul { padding-left: 1.2rem; margin-top: .35rem; }
li { margin: .25rem 0; }
li::marker { color: var(--quiet); }
a { color: var(--accent); text-underline-offset: .15em; }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; background: var(--quiet-back);
  padding: .08em .32em; border-radius: 4px; overflow-wrap: break-word; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 0 0 1.75rem; font-size: .92rem; }
nav a { color: var(--quiet); text-decoration: none; }
nav a:hover { color: var(--accent); text-decoration: underline; }
td code { white-space: nowrap; }
.quiet { color: var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .9rem; margin: 1.5rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.1rem 1.1rem;
  border-top: 3px solid var(--mark); }
.card h3 { margin: 0; font-size: 1.05rem; }
.card p { margin: .2rem 0 .9rem; color: var(--quiet); font-size: .88rem; line-height: 1.45; }
.card dl { display: grid; grid-template-columns: 1fr auto; gap: .35rem 1rem; margin: 0; align-items: baseline; }
.card dt { font-size: .88rem; line-height: 1.35; }
.card dd { margin: 0; font-weight: 650; font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
figure { margin: 1.5rem 0; padding: 1rem 1rem .25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
figcaption { font-weight: 600; font-size: .95rem; }
.plot { width: 100%; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: .9rem; margin: 1.5rem 0; }
.grid figure { margin: 0; min-width: 0; }
.exhibits { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem 1.5rem;
  padding: .75rem 0; }
.exhibits h3 { margin: 0 0 .35rem; font-size: .92rem; font-weight: 600; }
.exhibits img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.exhibits p { margin: .35rem 0 0; color: var(--quiet); font-size: .86rem; line-height: 1.45; }
figure.table { padding: 0; overflow: hidden; }
.table figcaption { padding: .85rem .8rem .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { vertical-align: bottom; font-size: .84rem; color: var(--quiet); font-weight: 600; line-height: 1.3; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
tbody th { position: sticky; left: 0; background: var(--card); font-weight: 550; min-width: 8.5rem; }
th small, td small { display: block; color: var(--quiet); font-weight: 400; font-size: .84em; }
th button { all: unset; cursor: pointer; }
th button:hover { color: var(--accent); }
th button:focus-visible, summary:focus-visible, a:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px;
}
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
.chip { display: inline-block; padding: .1rem .55rem; border-radius: 99px; font-size: .85rem; font-weight: 600;
  white-space: nowrap; }
.chip.good { color: var(--good); background: var(--good-back); }
.chip.bad { color: var(--bad); background: var(--bad-back); }
.chip.quiet { color: var(--quiet); background: var(--quiet-back); font-weight: 500; }
details { margin: 1.25rem 0; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
dl.terms { display: grid; grid-template-columns: minmax(9rem, 13rem) 1fr; gap: .65rem 1.5rem; margin: 1.5rem 0; }
dl.terms dt { font-weight: 600; overflow-wrap: anywhere; }
dl.terms dd { margin: 0; max-width: 42rem; }
@media (max-width: 40rem) {
  main { padding: 1.5rem .9rem 3rem; }
  h2 { margin-top: 2.5rem; }
  figure { padding: .8rem .4rem .1rem; }
  figcaption { padding: 0 .4rem; }
  .table figcaption { padding: .8rem .6rem .5rem; }
  th, td { padding: .45rem .6rem; min-width: 5rem; }
  td:last-child:not(.number) { min-width: 11rem; }
  thead th.number { min-width: 6rem; }
  tbody th { min-width: 7.6rem; max-width: 9.5rem; overflow-wrap: break-word; }
  dl.terms { grid-template-columns: 1fr; gap: .1rem; }
  dl.terms dd { margin-bottom: .8rem; }
}
"""

SCRIPT = """
const style = getComputedStyle(document.documentElement);
const paint = value =>
  typeof value === "string" ? (value[0] === "@" ? style.getPropertyValue("--" + value.slice(1)).trim() : value)
  : Array.isArray(value) ? value.map(paint)
  : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, paint(one)]))
  : value;
const narrow = matchMedia("(max-width: 40rem)"), dark = matchMedia("(prefers-color-scheme: dark)");
const settings = {displayModeBar: false, scrollZoom: false, doubleClick: false};
function draw() {
  for (const plot of document.querySelectorAll(".plot")) {
    const figure = paint(JSON.parse(document.getElementById(plot.id + "-data").textContent));
    if (narrow.matches) {
      figure.layout.font.size = 11;
      if (figure.crowded) figure.data.forEach(trace => delete trace.texttemplate);
    }
    Plotly.react(plot, figure.data, figure.layout, settings);
  }
}
draw();
const resized = new ResizeObserver(entries => entries.forEach(entry => Plotly.Plots.resize(entry.target)));
document.querySelectorAll(".plot").forEach(plot => resized.observe(plot));
narrow.addEventListener("change", draw);
dark.addEventListener("change", draw);
const key = cell => cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map(row => [key(row.cells[head.cellIndex]), row]);
  rows.sort(([a], [b]) => (typeof a === "number" ? a - b : a.localeCompare(b)) * (down ? -1 : 1));
  body.append(...rows.map(([, row]) => row));
});
"""
