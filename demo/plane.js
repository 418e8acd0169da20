// The plane of (t_64, t_32): an error map, a path over it, and a pen. Gradio calls this with `element`, `props`, `watch`
// and `trigger`. Both axes fall from 999 (noise) at the top left to 0 (image) at the bottom right, as in the figures.
const LAST = 999, LEAST_MOVE = 18;
const svg = () => element.querySelector("svg");
const shapes = name => svg().querySelector("." + name);
const pointsOf = path => path.map(([t64, t32]) => `${LAST - t32},${LAST - t64}`).join(" ");
let pen = null;                                             // corners [t_64, t_32] while a line is drawn

const redraw = () => {
  const {map, path, legend} = props.value || {};
  element.querySelector(".legend").textContent = legend || "";
  const image = shapes("map");
  if (map) image.setAttribute("href", map); else image.removeAttribute("href");
  shapes("shadow").setAttribute("points", pointsOf(path || []));
  shapes("path").setAttribute("points", pointsOf(path || []));
  shapes("steps").replaceChildren(...(path || []).map(([t64, t32]) => {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("cx", LAST - t32);
    dot.setAttribute("cy", LAST - t64);
    dot.setAttribute("r", 9);
    return dot;
  }));
  shapes("pen").setAttribute("points", "");
};

const place = event => {                                    // whole timesteps under the pointer, never rising again
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg().getScreenCTM().inverse());
  const before = pen && pen.length ? pen[pen.length - 1] : [LAST, LAST];
  return [at.y, at.x].map((value, k) => Math.min(before[k], Math.max(0, LAST - Math.round(Math.max(0, value)))));
};
const extend = event => {
  const next = place(event), last = pen[pen.length - 1];
  if (!last || Math.hypot(next[0] - last[0], next[1] - last[1]) >= LEAST_MOVE) pen.push(next);
  shapes("pen").setAttribute("points", pointsOf([[LAST, LAST], ...pen]));
};

element.addEventListener("pointerdown", event => {
  if (!event.target.closest("svg") || event.button !== 0) return;
  event.preventDefault();
  pen = [];
  svg().setPointerCapture(event.pointerId);
  extend(event);
});
element.addEventListener("pointermove", event => { if (pen) extend(event); });
element.addEventListener("pointerup", event => {
  if (!pen) return;
  extend(event);
  const corners = pen.map(pair => pair.join(",")).join(" ");
  pen = null;
  trigger("input", {corners});
});
element.addEventListener("pointercancel", () => { pen = null; redraw(); });
watch("value", redraw);
redraw();
