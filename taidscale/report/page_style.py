"""How the page looks, and the little that moves in it."""

CSS = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  color: #222; background: #f6f6f4; margin: 0 auto; padding: 1.2rem 1.6rem 3rem;
  max-width: 1560px; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .7rem; }
p { margin: .3rem 0; max-width: 80rem; }
.quiet, .note { color: #666; font-size: .86rem; }
.bar { position: sticky; top: 0; z-index: 2; background: #f6f6f4ee; padding: .5rem 0;
  display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; align-items: center; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.panels { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(430px, 100%), 1fr)); }
figure { margin: 0; background: #fff; border: 1px solid #e3e3e0; border-radius: 8px;
  padding: .6rem .6rem .4rem; position: relative; }
figure img { width: 100%; display: block; }
figcaption { padding: .1rem .3rem .2rem; }
.log { display: none; }
body.logarithmic .log { display: block; }
body.logarithmic .linear.twin { display: none; }
.cursor { position: absolute; width: 1px; background: #9995; pointer-events: none; display: none; }
.values { position: absolute; background: #fffffff2; border: 1px solid #bbb; border-radius: 5px;
  padding: .3rem .5rem; font-size: .8rem; pointer-events: none; display: none; z-index: 1;
  white-space: nowrap; box-shadow: 0 2px 8px #0002; }
.scroll { overflow-x: auto; }
.tables { display: flex; flex-wrap: wrap; gap: 0 1.6rem; align-items: flex-start; }
.tables > div { max-width: 100%; }
table { border-collapse: collapse; background: #fff; border: 1px solid #e3e3e0;
  font-size: .88rem; }
th, td { text-align: left; padding: .2rem .8rem; border-bottom: 1px solid #eee;
  vertical-align: top; }
thead th { background: #fafaf8; white-space: nowrap; }
.figures td { font-variant-numeric: tabular-nums; text-align: right; }
.figures thead th:not(:first-child) { text-align: right; }
.figures tbody th { font-weight: normal; color: #555; }
td.best { font-weight: 700; }
.events td { white-space: nowrap; }
.events td:last-child { white-space: pre-wrap; }
pre { background: #fff; border: 1px solid #e3e3e0; padding: .8rem; overflow-x: auto;
  font-size: .8rem; }
summary { cursor: pointer; }
@media print { .bar { position: static; } figure { break-inside: avoid; } }
"""

SCRIPT = """
const log = document.getElementById("log");
log.checked = sessionStorage.getItem("log") === "1" || location.hash === "#logarithmic";
log.onchange = () => {
  sessionStorage.setItem("log", log.checked ? "1" : "0");
  document.body.classList.toggle("logarithmic", log.checked);
};
log.onchange();
for (const view of document.querySelectorAll(".view")) {
  const {box, steps, curves} = JSON.parse(view.querySelector("script").textContent);
  const [cursor, values] = [view.querySelector(".cursor"), view.querySelector(".values")];
  view.onmouseleave = () => { cursor.style.display = values.style.display = "none"; };
  view.onmousemove = event => {
    const place = view.getBoundingClientRect();
    const across = ((event.clientX - place.left) / place.width - box[0]) / (box[2] - box[0]);
    if (across < 0 || across > 1) return view.onmouseleave();
    const step = steps[0] + across * (steps[1] - steps[0]);
    const lines = [], seen = [];
    for (const {name, color, x, y} of curves) {
      let near = 0;
      for (let i = 1; i < x.length; i++)
        if (Math.abs(x[i] - step) < Math.abs(x[near] - step)) near = i;
      if (y[near] === null || step < x[0] - 1 || step > x[x.length - 1] + 1) continue;
      seen.push(x[near]);
      const line = document.createElement("div"), chip = document.createElement("span");
      chip.className = "chip";
      chip.style.background = color;
      line.append(chip, name + "  " + Number(y[near].toPrecision(4)));
      lines.push(line);
    }
    const head = document.createElement("b");
    head.textContent = "step " + Math.round(seen.length ? seen[0] : step).toLocaleString("en");
    values.replaceChildren(head, ...lines);
    values.style.display = cursor.style.display = "block";
    const left = across * (box[2] - box[0]) + box[0];
    Object.assign(cursor.style, {left: 100 * left + "%", top: 100 * box[1] + "%",
      height: 100 * (box[3] - box[1]) + "%"});
    values.style.top = 100 * box[1] + "%";
    values.style.left = left < .5 ? `calc(${100 * left}% + 10px)` : "auto";
    values.style.right = left < .5 ? "auto" : `calc(${100 - 100 * left}% + 10px)`;
  };
}
"""
