// Where the page begins: connects its parts, and shows one view at a time.

import { address, log_in, set_up } from "./api.js";
import { $, attempt, say } from "./dom.js";
import * as find from "./find.js";
import { set_up_keys } from "./keys.js";
import { open_library, set_up_library, status } from "./library.js";
import { open_map, redraw_map, set_up_map } from "./map.js";
import * as player from "./player.js";
import { open_save, set_up_save } from "./save.js";
import { mark_current, menu_of, move_with_keys, row, set_actions } from "./tracks.js";

const VIEWS = ["find", "queue", "map", "library"];
const ASK_AGAIN = 5000;
let view = "";

// Views

function show_view() {
  const wanted = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : view || "find";
  if (wanted === view) return;
  view = wanted;
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo({ top: 0 });
  if (view === "map") open_map();
  if (view === "library") open_library();
  if (view === "queue") draw_queue();
}

const go = (name) => (location.hash = name);

// The queue

function draw_queue() {
  const { tracks, at } = player.queue;
  $("radio-on").checked = player.is_radio();
  mark_current([$("results")], player.current()?.track_id);
  redraw_map();
  if (view !== "queue") return;
  const focused = [...$("queue").children].indexOf(document.activeElement?.closest("#queue li"));
  $("queue-text").textContent = tracks.length ? "" : "The queue is empty. Play something, or start a radio.";
  const rows = tracks.map((track, i) =>
    row(track, { play: () => player.go_to(i), remove: () => player.remove(i), current: i === at }),
  );
  $("queue").replaceChildren(...rows);
  if (focused >= 0) (rows[Math.min(focused, rows.length - 1)]?.querySelector("button") ?? $("queue-title")).focus();
}

// The server

let asking_again = 0;

function reachable(is_there) {
  $("away").hidden = is_there;
  clearTimeout(asking_again);
  if (is_there) return;
  $("away").textContent = "The server cannot be reached. It is asked again every few seconds.";
  asking_again = setTimeout(async () => {
    const answer = await fetch(address("healthz")).catch(() => null);
    reachable(Boolean(answer?.ok));
  }, ASK_AGAIN);
}

let logging_in = null;

// One question for all requests that wait for the token.
function ask_for_token() {
  logging_in ??= new Promise((done) => {
    const dialog = $("login");
    dialog.oncancel = (event) => event.preventDefault();
    // Browsers close it all the same at the second Escape.
    dialog.onclose = () => logging_in && dialog.showModal();
    $("login-error").textContent = "";
    $("login-form").onsubmit = async (event) => {
      event.preventDefault();
      const right = await log_in($("token").value).catch((error) => error.message);
      if (right !== true) {
        $("login-error").textContent = right || "This token is wrong.";
        $("token").select();
        return;
      }
      $("token").value = "";
      localStorage.setItem("logged-in", "yes");
      $("logout").hidden = false;
      dialog.close();
      logging_in = null;
      done();
    };
    if (!dialog.open) dialog.showModal();
    $("token").focus();
  });
  return logging_in;
}

// Everything together

const with_current = (work) => () => {
  const track = player.current();
  if (track) work(track);
  else say("Nothing is playing");
};

const start_radio = (track) => attempt(() => player.start_radio([track]));
const now_alike = with_current(find.alike);
const now_part = with_current((track) => find.part(track, player.position()));
const now_radio = with_current(start_radio);

set_up(ask_for_token, reachable);
set_actions({
  alike: find.alike,
  like: find.like,
  avoid: find.avoid,
  radio: start_radio,
  path_from: (track) => find.path_end("from", track),
  path_to: (track) => find.path_end("to", track),
  play_next: (track) => {
    player.play_next(track);
    say("Plays next");
  },
  enqueue: (track) => {
    player.enqueue(track);
    say("Added to the queue");
  },
});
player.on_change(draw_queue);
player.set_up_player();
set_up_save();
find.set_up_find(open_save);
set_up_map({
  play: (track) => player.play([track]),
  playing: () => player.current()?.track_id,
  state: () => status()?.indexed_at ?? null,
});
move_with_keys($("results"));
move_with_keys($("queue"));

$("now-alike").onclick = now_alike;
$("now-part").onclick = now_part;
$("now-radio").onclick = now_radio;
$("now-more").onclick = (event) =>
  menu_of(player.current(), event.currentTarget, [["Parts that sound like this moment", now_part]]);
$("radio-on").onchange = () => attempt(() => player.set_radio($("radio-on").checked));
$("clear-queue").onclick = player.clear;
$("save-queue").onclick = () => {
  if (player.queue.tracks.length) open_save("Queue", player.queue.tracks);
  else say("The queue is empty");
};

set_up_keys([
  ["/", "search", () => $("words").focus()],
  [" ", "play or pause", player.toggle],
  ["n", "next track", player.next],
  ["p", "previous track", player.previous],
  [",", "10 seconds back", () => player.seek(Math.max(0, player.position() - 10))],
  [".", "10 seconds on", () => player.seek(player.position() + 10)],
  ["m", "more like what is playing", now_alike],
  ["l", "like what is playing too", with_current(find.like)],
  ["x", "avoid what sounds like what is playing", with_current(find.avoid)],
  ["f", "find parts that sound like this moment", now_part],
  ["r", "radio from what is playing", now_radio],
  ...VIEWS.map((name, i) => [String(i + 1), `view ${name}`, () => go(name)]),
  ["?", "this list", () => $("keys").showModal()],
]);

let was_empty = false;
set_up_library((now) => {
  const is_empty = !now.served;
  if (is_empty && !was_empty) find.nothing_indexed();
  if (!is_empty && was_empty) find.welcome();
  was_empty = is_empty;
});

addEventListener("hashchange", show_view);
show_view();
