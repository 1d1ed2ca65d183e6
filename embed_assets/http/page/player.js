// Plays the queue, and keeps a radio going: the server forgets, so the queue remembers what was played.

import { address, failure_of, post } from "./api.js";
import { $, attempt, by, clock, icon, name_of, say, title_of } from "./dom.js";

const MOST_PLAYED = 1000;
const FETCH_AT = 3;
const FETCHED = 10;
const NEED_A_TRACK = ["toggle", "previous", "next", "now-alike", "now-part", "now-radio", "now-more", "seek"];

export const queue = { tracks: [], at: -1 };
const radio = { on: false, seeds: [], busy: false };
const audio = $("audio");
const playing = { converted: false, offset: 0, as: "", failures: 0, resumed: -1, seeking: false };

let changed = () => {};

// `told` is called when the queue or the current track changes.
export function on_change(told) {
  changed = told;
}

export const current = () => queue.tracks[queue.at] ?? null;
export const is_radio = () => radio.on;
export const position = () => playing.offset + (audio.currentTime || 0);

function length() {
  const known = current()?.duration || 0;
  return !playing.converted && Number.isFinite(audio.duration) ? audio.duration : known;
}

// Queue

export function play(tracks, at = 0, seconds = 0) {
  set_radio(false);
  queue.tracks = [...tracks];
  go_to(at, seconds);
}

export function go_to(at, seconds = 0) {
  queue.at = at;
  playing.as = "";
  load(seconds);
  changed();
  fetch_more();
}

export function play_next(track) {
  queue.tracks.splice(queue.at + 1, 0, track);
  if (queue.at < 0) go_to(0);
  else changed();
}

export function enqueue(track) {
  queue.tracks.push(track);
  if (queue.at < 0) go_to(0);
  else changed();
}

export function remove(at) {
  queue.tracks.splice(at, 1);
  if (at < queue.at) queue.at -= 1;
  else if (at === queue.at) {
    if (queue.tracks.length) return go_to(Math.min(at, queue.tracks.length - 1));
    stop();
  }
  changed();
  return fetch_more();
}

export function clear() {
  set_radio(false);
  queue.tracks = current() ? [current()] : [];
  queue.at = queue.tracks.length - 1;
  changed();
}

export function next() {
  if (queue.at + 1 < queue.tracks.length) go_to(queue.at + 1);
  else stop();
}

export function previous() {
  if (position() > 4 || queue.at <= 0) seek(0);
  else go_to(queue.at - 1);
}

export function toggle() {
  if (!current()) return;
  if (!audio.paused) audio.pause();
  else if (audio.currentSrc && !audio.ended) start();
  else load(0);
}

// Radio

// From some tracks; the only one is played first.
export async function start_radio(seeds) {
  radio.seeds = seeds.map((track) => track.track_id);
  const before = seeds.length === 1 ? [...seeds] : [];
  const found = await similar_to_seeds(before.map((track) => track.track_id));
  if (!before.length && !found.length) return say("The radio finds no other tracks.", { failed: true });
  const goes_on = before.length && current()?.track_id === before[0].track_id;
  queue.tracks = [...before, ...found];
  radio.on = true;
  if (goes_on) {
    queue.at = 0;
    changed();
  } else go_to(0);
  return say(`Radio from ${seeds.length === 1 ? name_of(seeds[0]) : `${seeds.length} tracks`}`);
}

export function set_radio(on) {
  if (on && !current()) return say("Play a track first; the radio goes on from it.", { failed: true });
  if (on && !radio.on) radio.seeds = [current().track_id];
  radio.on = on;
  changed();
  return fetch_more();
}

async function similar_to_seeds(played) {
  const body = { seeds: radio.seeds, n: FETCHED, drift: Number($("drift").value), one_recording: true };
  return (await post("v1/radio", { ...body, played: played.slice(-MOST_PLAYED) })).matches;
}

async function fetch_more() {
  if (!radio.on || radio.busy || queue.tracks.length - queue.at > FETCH_AT) return;
  radio.busy = true;
  await attempt(async () => {
    const found = await similar_to_seeds(queue.tracks.map((track) => track.track_id));
    if (!radio.on) return;
    if (!found.length) {
      radio.on = false;
      say("The radio has played every track that fits.");
    }
    queue.tracks.push(...found);
    changed();
  });
  radio.busy = false;
}

// Audio

function load(seconds) {
  const track = current();
  if (!track) return;
  const path = `v1/audio/${track.track_id}`;
  playing.converted = Boolean(playing.as);
  playing.offset = 0;
  const params = { as: playing.as };
  if (playing.as && seconds) begin_at(params, seconds);
  audio.src = address(path, params);
  if (!playing.converted && seconds) {
    audio.addEventListener("loadedmetadata", () => (audio.currentTime = seconds), { once: true });
  }
  start();
  show();
  if (!playing.as) notice_conversion(track, path, seconds);
}

// The server converts what browsers cannot play; such audio has no ranges, so seeking begins anew.
async function notice_conversion(track, path, seconds) {
  try {
    const answer = await fetch(address(path), { method: "HEAD" });
    if (current() !== track || playing.as || answer.headers.get("accept-ranges") !== "none") return;
    playing.converted = true;
    if (seconds) seek(seconds);
  } catch {
    // What is wrong, the audio element will find out too.
  }
}

function begin_at(params, seconds) {
  params.start = Math.max(0, Math.round(seconds));
  playing.offset = params.start;
}

export function seek(seconds) {
  if (!current()) return;
  if (playing.converted) {
    const params = { as: playing.as };
    begin_at(params, seconds);
    audio.src = address(`v1/audio/${current().track_id}`, params);
    start();
  } else audio.currentTime = seconds;
  show();
}

function start() {
  audio.play().catch((error) => {
    if (error.name === "NotAllowedError") say("The browser wants you to press play.");
  });
}

function stop() {
  audio.pause();
  audio.removeAttribute("src");
  audio.load();
  queue.at = -1;
  changed();
  show();
}

async function failed() {
  const track = current();
  if (!track || !audio.getAttribute("src")) return;
  if (!playing.as && audio.error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED) {
    // Some browsers play less than others, e.g. no Opus.
    const one_byte = { headers: { Range: "bytes=0-0" } };
    const answer = await fetch(address(`v1/audio/${track.track_id}`), one_byte).catch(() => null);
    if (current() !== track) return;
    if (answer?.ok) {
      answer.body?.cancel();
      playing.as = "mp3";
      load(0);
      return;
    }
    const why = answer ? (await failure_of(answer)).message : "The server cannot be reached.";
    say(`${name_of(track)} cannot be played. ${why}`, { failed: true });
  } else say(`${name_of(track)} cannot be played: the audio broke off.`, { failed: true });
  playing.failures += 1;
  if (playing.failures < 3 && queue.at + 1 < queue.tracks.length) setTimeout(() => current() === track && next(), 2500);
}

function ended() {
  const at = position();
  // A converted stream that was paused for long is cut by the server.
  if (playing.converted && at < length() - 10 && at > playing.resumed + 5) {
    playing.resumed = at;
    seek(at);
  } else next();
}

// What is seen

function show() {
  const track = current();
  $("now-title").textContent = track ? title_of(track) : "Nothing is playing";
  $("now-by").textContent = track ? by(track) : "";
  document.title = track && !audio.paused ? `${name_of(track)} – embed_assets` : "embed_assets";
  const shown = audio.paused ? "play" : "pause";
  $("toggle").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
  $("toggle").replaceChildren(icon(shown));
  for (const id of NEED_A_TRACK) $(id).disabled = !track;
  $("seek").max = Math.max(1, Math.round(length()));
  $("length").textContent = clock(length());
  show_time();
  if (navigator.mediaSession) {
    navigator.mediaSession.metadata = track
      ? new MediaMetadata({ title: title_of(track), artist: track.artist, album: track.album })
      : null;
  }
}

function show_time() {
  if (playing.seeking) return;
  const at = current() ? position() : 0;
  $("elapsed").textContent = clock(at);
  $("seek").value = Math.round(at);
  $("seek").setAttribute("aria-valuetext", `${clock(at)} of ${clock(length())}`);
}

export function set_up_player() {
  for (const event of ["play", "pause", "durationchange"]) audio.addEventListener(event, show);
  audio.addEventListener("timeupdate", show_time);
  audio.addEventListener("playing", () => (playing.failures = 0));
  audio.addEventListener("ended", ended);
  audio.addEventListener("error", failed);
  $("toggle").onclick = toggle;
  $("next").onclick = next;
  $("previous").onclick = previous;
  $("seek").oninput = () => {
    playing.seeking = true;
    $("elapsed").textContent = clock($("seek").value);
  };
  $("seek").onchange = () => {
    playing.seeking = false;
    seek(Number($("seek").value));
  };
  $("volume").value = localStorage.getItem("volume") ?? 1;
  audio.volume = Number($("volume").value);
  $("volume").oninput = () => {
    audio.volume = Number($("volume").value);
    localStorage.setItem("volume", $("volume").value);
  };
  const keys = { play: toggle, pause: toggle, nexttrack: next, previoustrack: previous };
  for (const [key, action] of Object.entries(keys)) navigator.mediaSession?.setActionHandler(key, action);
  navigator.mediaSession?.setActionHandler("seekto", (given) => seek(given.seekTime));
  show();
}
