"""What is the same in every page: looks, frame and the few movements."""

STYLE = """
:root { --page: #fbfbfa; --ink: #1d2126; --soft: #6a727c; --line: #dfe2e6; --up: #eef1f4; --down: #c9ced4;
  --serves: #2f9e62; --paused: #8a63c9; --cut: #b26a00; --fault: #c98a1b; --call: #8ea2b8; --refused: #d08a2c;
  --failed: #b9a3a3; --unknown: #a07fc0; --bad: #d42a2a; --shade: rgba(178, 106, 0, .10); --moment: #55606c; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --ink: #e4e7eb; --soft: #98a2ad; --line: #2b3138; --up: #20252b; --down: #3b434c;
    --serves: #3fb878; --paused: #a784e0; --cut: #e0993a; --fault: #dba443; --call: #5f7690; --refused: #dd9c45;
    --failed: #7d6a6a; --unknown: #8f6cb5; --bad: #ff5a52; --shade: rgba(224, 153, 58, .12); --moment: #a8b3bf; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 16px 20px 150px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 19px; margin: 0 0 2px; }
p { margin: 0 0 8px; color: var(--soft); }
ul { margin: 0 0 10px; padding: 0; list-style: none; }
li { margin: 3px 0; white-space: pre-wrap; overflow-wrap: anywhere; }
li.none { color: var(--soft); }
button { font: inherit; color: inherit; background: var(--up); border: 1px solid var(--line); border-radius: 5px;
  padding: 1px 8px; cursor: pointer; }
li button { color: var(--bad); font-weight: 600; }
.keys i { display: inline-block; width: 12px; height: 12px; margin: 0 4px 0 12px; border-radius: 2px;
  vertical-align: -1px; }
#lanes { display: flex; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
#names { position: relative; flex: 0 0 110px; border-right: 1px solid var(--line); }
.name { position: absolute; left: 8px; right: 4px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  font-size: 13px; }
.name.client { font-size: 11px; line-height: 13px; color: var(--soft); }
.name.offends { color: var(--bad); font-weight: 600; }
#scroll { flex: 1; overflow-x: auto; }
svg { display: block; width: 100%; min-width: 100%; }
svg rect { stroke-width: 1; vector-effect: non-scaling-stroke; }
svg rect:hover { stroke: var(--ink); }
.tick { fill: var(--soft); font-size: 11px; }
.label { fill: #fff; font-size: 10.5px; pointer-events: none; }
.label.dark { fill: #1d2126; }
.up { fill: var(--up); }
.down { fill: var(--down); }
.paused { fill: url(#hatch); stroke: var(--paused); }
.hatch { fill: var(--paused); }
.leads { stroke: none; }
.t0 { fill: #2563b8; } .t1 { fill: #b3386f; } .t2 { fill: #207d74; } .t3 { fill: #7a48b8; }
.t4 { fill: #a35412; } .t5 { fill: #3b7a2a; } .t6 { fill: #b03a3a; } .t7 { fill: #4a5fa8; }
.serves { fill: var(--serves); }
.cut { fill: var(--cut); stroke: var(--cut); }
.fault { fill: var(--fault); stroke: var(--fault); }
.call { fill: var(--call); stroke: var(--call); }
.call.refused { fill: var(--refused); stroke: var(--refused); }
.call.failed { fill: var(--failed); stroke: var(--failed); }
.call.unknown { fill: var(--unknown); stroke: var(--unknown); }
.call.offends { fill: var(--bad); stroke: var(--bad); stroke-width: 3; }
.moment { fill: var(--moment); stroke: var(--moment); opacity: .45; }
.shade { fill: var(--shade); pointer-events: none; }
.offence { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 5 3; }
#details { position: fixed; left: 0; right: 0; bottom: 0; min-height: 52px; max-height: 140px; overflow: auto;
  margin: 0; padding: 8px 20px; background: var(--page); border-top: 1px solid var(--line); white-space: pre-wrap;
  font: 12.5px/1.4 ui-monospace, monospace; }
"""

BODY_START = """
<h1>{title}</h1><p>{facts}</p><ul>{offences}</ul>
<p><button id="wider" title="key +">zoom in</button> <button id="narrower" title="key -">zoom out</button>
<button id="whole" title="key 0">all of it</button>
<span class="keys">
<i style="background:#2563b8"></i>leads, a colour for each term
<i style="background:var(--serves)"></i>serves
<i style="background:var(--paused)"></i>paused
<i style="background:var(--down)"></i>down
<i style="background:var(--fault)"></i>fault
<i style="background:var(--cut)"></i>cut links
<i style="background:var(--call)"></i>call
<i style="background:var(--refused)"></i>refused
<i style="background:var(--unknown)"></i>outcome unknown
<i style="background:var(--bad)"></i>finding
</span></p>
"""

BODY_END = """<pre id="details">Point at something. Zoom: buttons, keys + - 0, or the wheel with Ctrl held.</pre>"""

SCRIPT = """
"use strict";
const scroll = document.getElementById("scroll"), drawing = document.getElementById("drawing");
const ticks = document.getElementById("ticks"), details = document.getElementById("details");
const total = Number(drawing.dataset.seconds);
const ZOOM_MAX = 4000, TICKS = 12;
let zoom = 1;

function drawTicks() {
  const shown = total / zoom, from = total * scroll.scrollLeft / scroll.scrollWidth;
  const raw = shown / TICKS, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw);
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step))));
  ticks.replaceChildren();
  for (let at = Math.floor(from / step) * step; at <= Math.min(total, from + shown + step); at += step) {
    const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
    text.setAttribute("class", "tick");
    text.setAttribute("x", 100 * at / total + "%");
    text.setAttribute("y", 14);
    text.textContent = at.toFixed(digits) + " s";
    ticks.append(text);
  }
}

// `at` is a part of the run's time that stays at the same place of the screen, `x` in points from the left.
function zoomTo(wanted, at, x) {
  zoom = Math.min(ZOOM_MAX, Math.max(1, wanted));
  drawing.style.width = 100 * zoom + "%";
  scroll.scrollLeft = at * scroll.scrollWidth - x;
  drawTicks();
}
function zoomAround(wanted, x) { zoomTo(wanted, (scroll.scrollLeft + x) / scroll.scrollWidth, x); }
function zoomMiddle(factor) { zoomAround(zoom * factor, scroll.clientWidth / 2); }

document.getElementById("wider").onclick = () => zoomMiddle(2);
document.getElementById("narrower").onclick = () => zoomMiddle(1 / 2);
document.getElementById("whole").onclick = () => zoomTo(1, 0, 0);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey) return;
  if (event.key === "+" || event.key === "=") zoomMiddle(2);
  if (event.key === "-") zoomMiddle(1 / 2);
  if (event.key === "0") zoomTo(1, 0, 0);
});
scroll.addEventListener("wheel", event => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  zoomAround(zoom * (event.deltaY < 0 ? 1.25 : 0.8), event.clientX - scroll.getBoundingClientRect().left);
}, { passive: false });
scroll.addEventListener("scroll", drawTicks);
drawing.addEventListener("mouseover", event => {
  const title = event.target.querySelector ? event.target.querySelector(":scope > title") : null;
  if (title) details.textContent = title.textContent;
});
for (const button of document.querySelectorAll("button[data-at]")) {
  button.onclick = () => zoomTo(Math.max(zoom, 20), Number(button.dataset.at), scroll.clientWidth / 2);
}
drawTicks();
"""
