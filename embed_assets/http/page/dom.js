// Small helpers: elements whose text is always text, times, messages, and menus.

export const $ = (id) => document.getElementById(id);

// make("li", { class: "x", onclick }, "text", child): an element. Strings become text, never HTML.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function icon_button(name, label, onclick, more = {}) {
  const attributes = { type: "button", class: "icon", "aria-label": label, onclick, ...more };
  return make("button", attributes, icon(name));
}

export const by = (track) => [track.artist || "Unknown artist", track.album].filter(Boolean).join(" · ");
export const title_of = (track) => track.title || track.path.split("/").pop();
export const name_of = (track) => (track.artist ? `${title_of(track)} by ${track.artist}` : title_of(track));

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds || 0));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function long_time(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "less than a minute";
  if (minutes < 90) return `about ${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `about ${hours} h` : `about ${Math.round(hours / 24)} days`;
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

let hiding = 0;

// A message for eyes and screen readers; a quiet one is for these only, as eyes see it elsewhere.
export function say(text, { failed = false, quiet = false } = {}) {
  const live = $("live");
  live.textContent = text;
  live.classList.toggle("failed", failed);
  if (quiet) {
    live.classList.remove("shown");
    return;
  }
  live.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => live.classList.remove("shown"), failed ? 9000 : 4000);
}

// Run what a person asked for; if it fails, say why.
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error.status === undefined) console.error(error);
    say(error.message, { failed: true });
    return undefined;
  }
}

// A menu below a button: [[label, action], ...].
export function open_menu(button, entries) {
  const menu = $("menu");
  menu.replaceChildren(
    ...entries.map(([label, action]) =>
      make(
        "button",
        {
          type: "button",
          role: "menuitem",
          tabindex: "-1",
          onclick: () => {
            menu.hidePopover();
            button.focus();
            action();
          },
        },
        label,
      ),
    ),
  );
  menu.onkeydown = (event) => move_in_menu(event, menu, button);
  menu.showPopover();
  const box = button.getBoundingClientRect();
  const left = Math.min(box.right - menu.offsetWidth, innerWidth - menu.offsetWidth - 8);
  const below = box.bottom + 4;
  const fits = below + menu.offsetHeight <= innerHeight - 8;
  menu.style.left = `${Math.max(8, left)}px`;
  menu.style.top = `${fits ? below : Math.max(8, box.top - menu.offsetHeight - 4)}px`;
  menu.firstElementChild.focus();
}

function move_in_menu(event, menu, button) {
  const entries = [...menu.children];
  const at = entries.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    entries[(to + entries.length) % entries.length].focus();
  } else if (event.key === "Escape" || event.key === "Tab") {
    event.preventDefault();
    menu.hidePopover();
    button.focus();
  }
  event.stopPropagation();
}
