// Lists of tracks: their rows, the menu of a track, and moving between rows with keys.

import { by, clock, icon_button, make, name_of, open_menu, title_of } from "./dom.js";

let actions = {};

// The actions that every track offers; app.js connects them.
export function set_actions(given) {
  actions = given;
}

// `first`: entries before those of every track.
export function menu_of(track, button, first = []) {
  open_menu(button, [
    ...first,
    ["More like this", () => actions.alike(track)],
    ["Like this too", () => actions.like(track)],
    ["Avoid what sounds like this", () => actions.avoid(track)],
    ["Radio from here", () => actions.radio(track)],
    ["Path from here", () => actions.path_from(track)],
    ["Path to here", () => actions.path_to(track)],
    ["Play next", () => actions.play_next(track)],
    ["Add to the queue", () => actions.enqueue(track)],
  ]);
}

// A row. `play`: what its play button does; `remove`: if there is a button to remove it.
export function row(track, { play, remove, score, current = false }) {
  const name = name_of(track);
  const small = by(track);
  const part = track.start === null || track.start === undefined ? "" : clock(track.start);
  const text = make(
    "div",
    { class: "text" },
    make("span", { class: "title" }, title_of(track)),
    make("span", { class: "by" }, part ? `at ${part} · ${small}` : small),
  );
  const item = make(
    "li",
    { class: current ? "current" : undefined, "aria-current": current ? "true" : undefined },
    icon_button("play", part ? `Play ${name} at ${part}` : `Play ${name}`, play),
    text,
  );
  if (score && track.score !== undefined) item.append(score_of(track));
  item.append(make("span", { class: "length" }, clock(track.duration)));
  item.append(icon_button("alike", `More like ${name}`, () => actions.alike(track), { title: "More like this" }));
  const more = icon_button("more", `More about ${name}`, (event) => menu_of(track, event.currentTarget), {
    "aria-haspopup": "menu",
  });
  item.append(more);
  if (remove) item.append(icon_button("close", `Remove ${name}`, remove));
  item.dataset.id = track.track_id;
  return item;
}

// Of music found by words, how far it stands out tells more than its cosine.
function score_of({ score, deviations }) {
  const by_words = deviations !== null && deviations !== undefined;
  const shown = by_words ? `${deviations < 0 ? "" : "+"}${deviations.toFixed(1)}` : score.toFixed(2);
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--score", Math.max(0, by_words ? Math.min(1, deviations / 4) : score));
  const title = by_words ? "Standard deviations above the library's mean" : "How alike it sounds: 1 is the same";
  return make(
    "span",
    { class: "score", title },
    make("span", { class: "unseen" }, "Score "),
    shown,
    bar,
  );
}

// Up and down go to the same button of the next row, Home and End to the first and last row.
export function move_with_keys(list) {
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest("li");
    const to = {
      ArrowDown: item?.nextElementSibling,
      ArrowUp: item?.previousElementSibling,
      Home: list.firstElementChild,
      End: list.lastElementChild,
    }[event.key];
    if (!to || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const column = [...item.querySelectorAll("button")].indexOf(event.target);
    const buttons = to.querySelectorAll("button");
    (buttons[column] ?? buttons[0]).focus();
  });
}

export function mark_current(lists, id) {
  for (const list of lists) {
    for (const item of list.children) {
      const current = item.dataset.id === id;
      item.classList.toggle("current", current);
      if (current) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    }
  }
}
