// The view "Map": every track as a point; what sounds alike is near.

import { get } from "./api.js";
import { $, attempt, count, make, name_of } from "./dom.js";

const COLOURS = [
  "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948",
  "#b07aa1", "#ff9da7", "#9c755f", "#86bcb6", "#d37295", "#9a9a9a",
];
const EDGE = 16;
const NEAR = 14;
const REDRAWN_AFTER = 15000;

const canvas = $("canvas");
const pen = canvas.getContext("2d");
const view = { scale: 1, x: 0, y: 0, width: 0, height: 0 };
const pointers = new Map();
const hidden = new Set();
let points = null;
let chosen = -1;
let moved = 0;
let pinched = 0;
let queued = false;
let drawn_of = null;
let play = () => {};
let playing = () => "";
let state = () => null;

const size = () => points.track_id.length;
const COLUMNS = ["track_id", "path", "title", "artist", "duration"];
const track_at = (i) => ({ album: "", ...Object.fromEntries(COLUMNS.map((name) => [name, points[name][i]])) });
const colour = (group) => COLOURS[Math.min(group, COLOURS.length - 1)];
const px = (i) => EDGE + points.x[i] * (view.width - 2 * EDGE) * view.scale + view.x;
const py = (i) => EDGE + (1 - points.y[i]) * (view.height - 2 * EDGE) * view.scale + view.y;
const radius = () => Math.min(9, Math.max(1.7, 70 / Math.sqrt(size())) * Math.sqrt(view.scale));

function redraw() {
  if (queued || !points) return;
  queued = true;
  requestAnimationFrame(draw);
}

function draw() {
  queued = false;
  pen.clearRect(0, 0, view.width, view.height);
  const r = radius();
  for (let group = 0; group < points.groups; group += 1) {
    if (hidden.has(group)) continue;
    pen.fillStyle = colour(group);
    pen.globalAlpha = 0.8;
    pen.beginPath();
    for (const i of points.of_group[group]) {
      const [x, y] = [px(i), py(i)];
      if (x < -r || y < -r || x > view.width + r || y > view.height + r) continue;
      pen.moveTo(x + r, y);
      pen.arc(x, y, r, 0, 7);
    }
    pen.fill();
  }
  pen.globalAlpha = 1;
  const ink = getComputedStyle(canvas).color;
  const now = points.track_id.indexOf(playing());
  for (const [i, more] of [[now, 5], [chosen, 3]]) {
    if (i < 0) continue;
    pen.beginPath();
    pen.arc(px(i), py(i), r + more, 0, 7);
    pen.fillStyle = colour(points.group[i]);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.fill();
    pen.stroke();
  }
}

function fit() {
  const ratio = devicePixelRatio || 1;
  view.width = canvas.clientWidth;
  view.height = canvas.clientHeight;
  canvas.width = view.width * ratio;
  canvas.height = view.height * ratio;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  redraw();
}

function nearest(x, y) {
  let best = -1;
  let least = Math.max(NEAR, radius() + 4) ** 2;
  for (let i = 0; i < size(); i += 1) {
    if (hidden.has(points.group[i])) continue;
    const far = (px(i) - x) ** 2 + (py(i) - y) ** 2;
    if (far < least) [least, best] = [far, i];
  }
  return best;
}

function choose(i) {
  chosen = i;
  const tip = $("tip");
  tip.hidden = i < 0;
  if (i >= 0) {
    tip.textContent = name_of(track_at(i));
    const x = Math.min(Math.max(8, px(i) + 12), view.width - tip.offsetWidth - 8);
    const y = Math.min(Math.max(8, py(i) + 12), view.height - tip.offsetHeight - 8);
    tip.style.left = `${x}px`;
    tip.style.top = `${y}px`;
  }
  redraw();
}

function zoom(factor, x = view.width / 2, y = view.height / 2) {
  const scale = Math.min(80, Math.max(0.7, view.scale * factor));
  view.x = x - EDGE - ((x - EDGE - view.x) * scale) / view.scale;
  view.y = y - EDGE - ((y - EDGE - view.y) * scale) / view.scale;
  view.scale = scale;
  choose(-1);
}

function show_all() {
  Object.assign(view, { scale: 1, x: 0, y: 0 });
  choose(-1);
}

const place = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

function pointer_moved(event) {
  const [x, y] = place(event);
  const before = pointers.get(event.pointerId);
  if (!before) {
    choose(nearest(x, y));
    return;
  }
  pointers.set(event.pointerId, [x, y]);
  moved += Math.hypot(x - before[0], y - before[1]);
  if (pointers.size === 2) {
    const [[ax, ay], [bx, by]] = [...pointers.values()];
    const apart = Math.hypot(ax - bx, ay - by);
    if (pinched) zoom(apart / pinched, (ax + bx) / 2, (ay + by) / 2);
    pinched = apart;
  } else if (moved > 5) {
    view.x += x - before[0];
    view.y += y - before[1];
    choose(-1);
  }
}

function pointer_left(event) {
  if (!pointers.delete(event.pointerId)) return;
  pinched = 0;
  if (event.type !== "pointerup" || moved > 5 || pointers.size) return;
  const i = nearest(...place(event));
  choose(i);
  if (i >= 0) play(track_at(i));
}

// The nearest point in a direction: straight ahead counts more than sideways.
function step(dx, dy) {
  if (chosen < 0) return choose(nearest_to_middle());
  let best = -1;
  let least = Infinity;
  for (let i = 0; i < size(); i += 1) {
    if (i === chosen || hidden.has(points.group[i])) continue;
    const [x, y] = [px(i) - px(chosen), py(i) - py(chosen)];
    const ahead = x * dx + y * dy;
    const aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (ahead <= 0 || aside > 2 * ahead) continue;
    if (ahead + 2 * aside < least) [least, best] = [ahead + 2 * aside, i];
  }
  return say_chosen(best < 0 ? chosen : best);
}

function nearest_to_middle() {
  const [x, y] = [view.width / 2, view.height / 2];
  let best = 0;
  const far = (i) => (px(i) - x) ** 2 + (py(i) - y) ** 2;
  for (let i = 1; i < size(); i += 1) if (far(i) < far(best)) best = i;
  return best;
}

function say_chosen(i) {
  choose(i);
  $("live").textContent = name_of(track_at(i));
}

function key_pressed(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.ctrlKey || event.metaKey || event.altKey || !points) return;
  if (steps[event.key]) step(...steps[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key === "0") show_all();
  else if (event.key === "Enter" && chosen >= 0) play(track_at(chosen));
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function draw_legend(groups) {
  const buttons = groups.map((name, group) => {
    const dot = make("i", {});
    dot.style.background = colour(group);
    const flip = (event) => {
      if (!hidden.delete(group)) hidden.add(group);
      event.currentTarget.setAttribute("aria-pressed", String(hidden.has(group)));
      choose(-1);
    };
    return make("button", { type: "button", "aria-pressed": "false", onclick: flip }, dot, `${name || "no genre"} (${points.of_group[group].length})`);
  });
  $("legend").replaceChildren(...buttons);
}

export async function open_map() {
  if (points) fit();
  // The same state of the index has the same map.
  const of = state();
  if (points && of !== null && of === drawn_of) return;
  await attempt(async () => {
    if (!points) $("map-text").textContent = "Drawing…";
    const found = await get("v1/map");
    const of_group = found.groups.map(() => []);
    found.points.group.forEach((group, i) => of_group[group].push(i));
    points = { ...found.points, of_group, groups: found.groups.length };
    const n = size();
    $("map-text").textContent = n ? `${count(n, "track")} by ${found.by}` : "Nothing is indexed yet.";
    $("stage").hidden = !n;
    draw_legend(found.groups);
    choose(-1);
    fit();
    drawn_of = found.drawing ? null : of;
    if (found.drawing) setTimeout(() => $("view-map").hidden || open_map(), REDRAWN_AFTER);
  });
  if (!points) $("map-text").textContent = "There is no map yet.";
}

export const redraw_map = redraw;

export function set_up_map(given) {
  ({ play, playing, state } = given);
  canvas.onpointermove = pointer_moved;
  canvas.onpointerdown = (event) => {
    moved = pointers.size ? 99 : 0;
    pointers.set(event.pointerId, place(event));
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointerup = canvas.onpointercancel = pointer_left;
  canvas.onpointerleave = () => pointers.size || choose(-1);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...place(event));
  }, { passive: false });
  canvas.onkeydown = key_pressed;
  $("map-in").onclick = () => zoom(1.6);
  $("map-out").onclick = () => zoom(1 / 1.6);
  $("map-all").onclick = show_all;
  new ResizeObserver(() => $("view-map").hidden || fit()).observe(canvas);
}
