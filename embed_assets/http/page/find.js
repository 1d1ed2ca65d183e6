// The view "Find": search, the mix of liked and avoided tracks, and what was found.

import { get, playlist_of, post } from "./api.js";
import { $, attempt, clock, count, icon_button, make, name_of, say } from "./dom.js";
import * as player from "./player.js";
import { row } from "./tracks.js";

const SEARCHED = 50;
const FOUND = 30;
const TYPING = 250;

const mix = { like: [], avoid: [], from: null, to: null };
// What is shown: `again` asks the same for a playlist, `more` fetches the next page.
const shown = { tracks: [], name: "", again: null, more: null };
let asking = new AbortController();
let typing = 0;

// Each question takes the place of the one before it, which may still be under way.
function ask(work, focus = true) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  $("view-find").setAttribute("aria-busy", "true");
  return attempt(async () => {
    try {
      await work(signal);
      if (focus) focus_answer();
    } finally {
      if (!signal.aborted) $("view-find").removeAttribute("aria-busy");
    }
  });
}

function focus_answer() {
  location.hash = "find";
  $("view-find").hidden = false;
  $("answer-title").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

// Search

function searched() {
  clearTimeout(typing);
  const words = $("words").value.trim();
  if (location.hash !== "#find") location.hash = "find";
  if (!words) return welcome();
  return ask((signal) => list(words, signal), false);
}

export function browse() {
  return ask((signal) => list("", signal));
}

async function list(words, signal) {
  const page = await get("v1/tracks", { q: words, n: SEARCHED }, signal);
  const title = words ? `“${words}”` : "All tracks";
  answer(title, page.tracks, { name: words || "All tracks" });
  const n = page.tracks.length;
  const nothing = `Nothing has all of these words in its title, artist, album or path: ${words}. Try fewer.`;
  $("answer-text").textContent = n || !words ? "" : nothing;
  say(n ? `${count(n, "track")}${page.after ? ", and more" : ""}` : "Nothing found");
  further(words, page.after);
}

function further(words, after) {
  shown.more = after;
  $("more-results").hidden = !after;
  $("more-results").onclick = () =>
    ask(async (signal) => {
      const page = await get("v1/tracks", { q: words, n: SEARCHED, after }, signal);
      const first = shown.tracks.length;
      shown.tracks.push(...page.tracks);
      draw_from(first);
      $("results").children[first]?.querySelector("button").focus();
      further(words, page.after);
    }, false);
}

export function welcome() {
  asking.abort();
  answer("Find music by its sound", [], { name: "" });
  $("answer-text").replaceChildren(
    "Search for a track, then ask for more like it, start an endless radio from it, or draw a path to another one. ",
    make("button", { type: "button", onclick: browse }, "Browse all tracks"),
  );
}

export function nothing_indexed() {
  answer("Nothing is indexed yet", [], { name: "" });
  $("answer-text").textContent =
    "As soon as the first album is indexed, you can search here. The view Library shows how far it is.";
}

// The mix

export function alike(track) {
  mix.like = [track];
  mix.from = mix.to = null;
  drop(mix.avoid, track);
  return similar();
}

export function like(track) {
  drop(mix.avoid, track);
  add(mix.like, track);
  return similar();
}

export function avoid(track) {
  drop(mix.like, track);
  add(mix.avoid, track);
  if (mix.like.length) return similar(false);
  return draw_mix();
}

export function path_end(which, track) {
  mix[which] = track;
  draw_mix();
  if (mix.from && mix.to) return path();
  return say(which === "from" ? "Now choose where the path leads: Path to here" : "Now choose where it begins: Path from here");
}

function add(tracks, track) {
  if (!tracks.some((one) => one.track_id === track.track_id)) tracks.push(track);
}

function drop(tracks, track) {
  const at = tracks.findIndex((one) => one.track_id === track.track_id);
  if (at >= 0) tracks.splice(at, 1);
}

function draw_mix() {
  const chips = [
    ...mix.like.map((track) => chip("Like", "like", track, () => drop(mix.like, track))),
    ...mix.avoid.map((track) => chip("Avoid", "avoid", track, () => drop(mix.avoid, track))),
  ];
  for (const [end, label] of [["from", "From"], ["to", "To"]]) {
    if (mix[end]) chips.push(chip(label, "end", mix[end], () => (mix[end] = null)));
  }
  $("chips").replaceChildren(...chips);
  $("mix").hidden = !chips.length;
  $("run-similar").hidden = $("run-radio").hidden = !mix.like.length;
  $("run-path").hidden = !(mix.from && mix.to);
}

function chip(label, kind, track, remove) {
  const removed = () => {
    remove();
    draw_mix();
    ($("chips").querySelector("button") ?? $("words")).focus();
    if (mix.like.length && kind !== "end") similar(false);
  };
  return make(
    "span",
    { class: `chip ${kind}` },
    make("b", {}, label),
    make("span", { class: "name" }, name_of(track)),
    icon_button("close", `${label}: remove ${name_of(track)}`, removed),
  );
}

function clear_mix() {
  mix.like = [];
  mix.avoid = [];
  mix.from = mix.to = null;
  draw_mix();
  $("words").focus();
}

// Conditions as on the command line, one per word; quotes keep spaces: genre="acid jazz" year=1955..1965
function conditions() {
  const words = $("where").value.match(/(?:[^\s"]|"[^"]*")+/g) ?? [];
  return words.map((word) => word.replaceAll('"', ""));
}

const ids = (tracks) => tracks.map((track) => track.track_id);

// Queries

function similar(focus = true) {
  draw_mix();
  const body = { seeds: ids(mix.like), avoid: ids(mix.avoid), n: FOUND, where: conditions(), one_recording: true };
  const name = `Like ${names(mix.like)}`;
  return query(name, "v1/similar", body, "No other track fits. Remove a condition, or avoid less.", focus);
}

function path() {
  const body = { start: mix.from.track_id, end: mix.to.track_id, steps: 12, where: conditions() };
  return query(`From ${name_of(mix.from)} to ${name_of(mix.to)}`, "v1/path", body, "There is no path.");
}

// The tracks with a part that sounds like this moment of a track.
export function part(track, seconds) {
  const body = { seeds: [track.track_id], part: clock(seconds), n: FOUND };
  return query(`Like ${name_of(track)} at ${clock(seconds)}`, "v1/parts", body, "No other track has such a part.");
}

// Music that sounds like words; commas separate phrases, and a minus makes one unwanted.
function by_sound() {
  clearTimeout(typing);
  const all = $("words").value.split(",").map((phrase) => phrase.trim()).filter(Boolean);
  const without = all.filter((phrase) => phrase.startsWith("-")).map((phrase) => phrase.slice(1).trim()).filter(Boolean);
  const phrases = all.filter((phrase) => !phrase.startsWith("-"));
  if (!phrases.length) {
    $("words").focus();
    return say("Say what it should sound like, e.g. calm piano, rain");
  }
  const body = { phrases, without, like: ids(mix.like), n: FOUND, where: conditions(), one_recording: true };
  const name = [...phrases.map((phrase) => `“${phrase}”`), ...without.map((phrase) => `not “${phrase}”`)].join(", ");
  return query(mix.like.length ? `${name}, like ${names(mix.like)}` : name, "v1/find", body, "No track fits. Remove a condition.");
}

function query(name, path, body, nothing, focus = true) {
  return ask(async (signal) => {
    const found = await post(path, body, signal);
    $("words").value = "";
    answer(name, found.matches, { name, notes: found.notes, again: () => playlist_of(path, body) });
    $("answer-text").textContent = found.matches.length ? "" : nothing;
    say(found.matches.length ? count(found.matches.length, "track") : "Nothing found", { quiet: true });
  }, focus);
}

const names = (tracks) => (tracks.length > 2 ? `${tracks.length} tracks` : tracks.map(name_of).join(" and "));

// The answer

function answer(title, tracks, { name, notes = [], again = null }) {
  Object.assign(shown, { tracks, name, again, more: null });
  $("answer-title").textContent = title;
  $("notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
  $("notes").hidden = !notes.length;
  $("answer-text").replaceChildren();
  $("answer-tools").hidden = !tracks.length;
  $("more-results").hidden = true;
  $("results").replaceChildren();
  draw_from(0);
}

function draw_from(first) {
  const playing = player.current()?.track_id;
  const rows = shown.tracks.slice(first).map((track, i) =>
    row(track, {
      play: () => play_from(first + i),
      score: true,
      current: track.track_id === playing,
    }),
  );
  $("results").append(...rows);
}

function play_from(at) {
  player.play(shown.tracks, at, shown.tracks[at].start ?? 0);
}

export function set_up_find(save) {
  $("search").onsubmit = (event) => {
    event.preventDefault();
    searched();
    $("words").blur();
    $("answer-title").focus();
  };
  $("words").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(searched, TYPING);
  };
  $("words").onkeydown = (event) => {
    const first = $("results").querySelector("button");
    if (event.key !== "ArrowDown" || !first) return;
    event.preventDefault();
    first.focus();
  };
  $("by-sound").onclick = by_sound;
  $("run-similar").onclick = () => similar();
  $("run-path").onclick = () => path();
  $("run-radio").onclick = () => attempt(() => player.start_radio(mix.like));
  $("clear-mix").onclick = clear_mix;
  $("where").onkeydown = (event) => {
    if (event.key !== "Enter") return;
    if (mix.like.length) similar();
    else if (mix.from && mix.to) path();
  };
  $("play-all").onclick = () => play_from(0);
  $("save-all").onclick = () => save(shown.name, shown.tracks, shown.again);
  welcome();
}
