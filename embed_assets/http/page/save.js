// Saving tracks as a playlist: a file, or in a music server.

import { get, post } from "./api.js";
import { $, count, make, say } from "./dom.js";

let saving = null;

// `again`: asks the server for the playlist of the same query; without it, it is written here.
export async function open_save(name, tracks, again = null) {
  saving = { tracks, again };
  $("save-name").value = name.slice(0, 200) || "Playlist";
  $("save-error").textContent = "";
  $("save-where").replaceChildren(make("legend", {}, "Where"), choice("", "A file (M3U)", true));
  $("save").showModal();
  $("save-name").select();
  try {
    const servers = await get("v1/servers");
    $("save-where").append(...servers.map((server) => choice(server.name, server.name)));
  } catch {
    // Without music servers there is the file.
  }
}

function choice(value, label, checked = false) {
  return make("label", {}, make("input", { type: "radio", name: "where", value, checked }), ` ${label}`);
}

function file_of(tracks) {
  const lines = ["#EXTM3U"];
  for (const track of tracks) {
    const title = [track.artist, track.title].filter(Boolean).join(" - ").replace(/\s+/g, " ");
    if (/[\r\n\v\f\u0085\u2028\u2029]/.test(track.path)) continue;
    lines.push(`#EXTINF:${Math.round(track.duration)},${title}`);
    lines.push(track.path.startsWith("#") ? `./${track.path}` : track.path);
  }
  return `${lines.join("\n")}\n`;
}

function download(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "audio/x-mpegurl" }));
  const safe = name.replace(/[\s\\/:*?"<>|\u0000-\u001f]+/g, " ").trim() || "playlist";
  make("a", { href: url, download: `${safe}.m3u` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function save(event) {
  event.preventDefault();
  const name = $("save-name").value.trim();
  const server = $("save-where").querySelector("input:checked").value;
  try {
    let saved = saving.tracks.length;
    if (server) {
      const track_ids = saving.tracks.map((track) => track.track_id);
      saved = (await post("v1/playlists", { server, name, track_ids })).tracks;
    } else download(saving.again ? await saving.again() : file_of(saving.tracks), name);
    $("save").close();
    say(`Saved ${count(saved, "track")} as ${name}${server ? ` in ${server}` : ""}`);
  } catch (error) {
    $("save-error").textContent = error.message;
  }
}

export function set_up_save() {
  $("save-form").onsubmit = save;
  $("save-cancel").onclick = () => $("save").close();
}
