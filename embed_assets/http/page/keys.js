// Keyboard shortcuts, and the dialog that lists them.

import { $, make } from "./dom.js";

const KEPT = "single-keys-off";

// `keys`: [key, what it does, action]. They act unless somebody types or a dialog is open.
export function set_up_keys(keys) {
  $("keys-list").replaceChildren(
    ...keys.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key === " " ? "Space" : key)), make("dd", {}, text)]),
  );
  $("keys-on").checked = !localStorage.getItem(KEPT);
  $("keys-on").onchange = () => {
    if ($("keys-on").checked) localStorage.removeItem(KEPT);
    else localStorage.setItem(KEPT, "yes");
  };
  $("show-keys").onclick = () => $("keys").showModal();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !$("keys-on").checked) return;
    if (document.querySelector("dialog[open]") || is_typing(event.target, event.key)) return;
    const action = keys.find(([key]) => key === event.key)?.[2];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function is_typing(target, key) {
  if (target.matches("input:not([type=range], [type=checkbox], [type=radio])")) return true;
  // A button, a link or a switch has its own use for these.
  return key === " " && target.matches("button, a, input");
}
