// The view "Library": how far the import is, and what was rejected, with links to Dagster.

import { get, log_out, post } from "./api.js";
import { $, attempt, count, long_time, make, say } from "./dom.js";

const BUSY = 4000;
const IDLE = 30000;
const MOST_FOLDERS = 100;

let timer = 0;
let last = null;
let told = () => {};

export const status = () => last;

// Read the status now and then: often while something is imported, never in a hidden tab.
async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    last = await get("v1/status");
    draw();
    told(last);
  } catch {
    // The banner says that the server is away; it is asked again.
  }
  const busy = !last || last.pending || last.folders_indexed < last.folders;
  timer = setTimeout(poll, busy ? BUSY : IDLE);
}

function draw() {
  const s = last;
  const done = s.embedded + s.rejected;
  const lines = [];
  if (!s.tracks) lines.push("No track has been read yet.");
  else if (s.pending) {
    lines.push(`${count(done, "track")} of ${s.tracks.toLocaleString("en")} done, ${left(s)}.`);
  } else lines.push(`${count(s.embedded, "track")} in ${count(s.folders_indexed, "folder")} can be searched.`);
  const behind = s.folders - s.folders_indexed;
  if (behind > 0) lines.push(`${count(behind, "folder")} still to be indexed.`);
  const when = s.indexed_at ? `last change ${new Date(s.indexed_at * 1000).toLocaleString()}` : "not indexed yet";
  lines.push(`Encoder ${s.encoder}, ${when}.`);
  const bar = make("progress", { max: String(Math.max(1, s.tracks)), value: String(done), "aria-label": "Tracks done" });
  $("status").replaceChildren(...(s.pending ? [bar] : []), ...lines.map((line) => make("p", {}, line)), dagster(s));
  document.body.classList.toggle("no-parts", !s.parts);
  document.body.classList.toggle("words", s.words);
  const nav = document.querySelector('nav a[href="#library"]');
  nav.dataset.badge = s.pending ? `${Math.floor((100 * done) / s.tracks)}%` : "";
}

function left(s) {
  if (s.eta === null) return "the rest waits for its turn";
  const rate = s.rate >= 1 ? `${s.rate.toFixed(1)} tracks a second` : `${(s.rate * 60).toFixed(0)} tracks a minute`;
  return `${long_time(s.eta)} left at ${rate}`;
}

const is_here = () => ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

function dagster(s) {
  if (!s.ui) return make("p", { class: "quiet" }, "The Dagster UI does not run. Start it with embed-assets up.");
  if (!is_here()) return make("p", { class: "quiet" }, `The Dagster UI is at ${s.ui}, on the machine of the server only.`);
  return make("p", {}, link(s.ui, "Open the Dagster UI"));
}

const link = (href, text) => make("a", { href, target: "_blank", rel: "noopener" }, text);

function folder_link(row) {
  if (!last?.ui || !is_here()) return null;
  const name = encodeURIComponent(row.partition);
  return link(`${last.ui}/assets/audio_embeddings?partition=${name}`, "in Dagster");
}

// What was rejected, by folder.
async function read_errors() {
  await attempt(async () => {
    const rows = await get("v1/errors");
    const folders = new Map();
    for (const row of rows) folders.set(row.folder, [...(folders.get(row.folder) ?? []), row]);
    const many = [...folders].slice(0, MOST_FOLDERS);
    $("errors-title").textContent = rows.length ? `Not indexed (${rows.length})` : "Not indexed";
    $("errors-text").textContent = rows.length
      ? "Replace a file, and it is read again."
      : "No problems so far.";
    if (folders.size > many.length) {
      $("errors-text").textContent += ` Here are ${many.length} of ${folders.size} folders; embed-assets errors lists all.`;
    }
    $("errors").replaceChildren(...many.map(([folder, here]) => section(folder, here)));
  });
}

function section(folder, rows) {
  const name = folder === "." ? "The top folder of the library" : folder;
  const items = rows.map((row) =>
    make(
      "li",
      {},
      make("b", {}, row.path === folder ? "The folder" : row.path.split("/").pop()),
      make("span", { class: "reason" }, row.reason),
      make("p", { class: "quiet" }, row.message),
    ),
  );
  const head = make("h4", {}, name, " ", folder_link(rows[0]));
  return make("section", { class: "folder" }, head, make("ul", {}, ...items));
}

export function open_library() {
  poll();
  read_errors();
}

export function set_up_library(on_status) {
  told = on_status;
  $("look").onclick = () =>
    attempt(async () => {
      await post("v1/look");
      say("The library is scanned within some seconds, if embed-assets up runs.");
    });
  $("logout").hidden = !localStorage.getItem("logged-in");
  $("logout").onclick = () =>
    attempt(async () => {
      await log_out();
      localStorage.removeItem("logged-in");
      location.reload();
    });
  document.addEventListener("visibilitychange", poll);
  poll();
}
