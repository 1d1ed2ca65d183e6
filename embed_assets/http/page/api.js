// Asking the server: addresses that work below any path, errors as sentences, and the login.

const ROOT = new URL("../", import.meta.url);
const AWAY = "The server cannot be reached. Does embed-assets serve run?";

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let ask_for_token = async () => {};
let tell_reachable = () => {};

// `login` asks a person for the token; `reachable` is told whether the server answers.
export function set_up(login, reachable) {
  ask_for_token = login;
  tell_reachable = reachable;
}

export function address(path, params = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url.href;
}

async function send(url, options) {
  try {
    const answer = await fetch(url, { credentials: "same-origin", ...options });
    tell_reachable(true);
    return answer;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell_reachable(false);
    throw new Failure(AWAY, 0);
  }
}

async function ask(path, params, options) {
  const url = address(path, params);
  let answer = await send(url, options);
  while (answer.status === 401) {
    await ask_for_token();
    answer = await send(url, options);
  }
  if (!answer.ok) throw await failure_of(answer);
  return answer;
}

export async function failure_of(answer) {
  let detail = "";
  try {
    detail = (await answer.json()).detail;
  } catch {
    // It is no answer of ours, perhaps one of a proxy.
  }
  const sentence = detail || `The server answered ${answer.status} ${answer.statusText}`;
  return new Failure(sentence[0].toUpperCase() + sentence.slice(1), answer.status);
}

const posted = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: body === undefined ? undefined : JSON.stringify(body),
});

export async function get(path, params, signal) {
  return (await ask(path, params, { signal })).json();
}

export async function post(path, body, signal) {
  return (await ask(path, {}, { ...posted(body), signal })).json();
}

export async function playlist_of(path, body) {
  return (await ask(path, { format: "m3u" }, posted(body))).text();
}

// Whether the token was right.
export async function log_in(token) {
  const answer = await send(address("page/login"), posted({ token }));
  if (answer.status === 401) return false;
  if (!answer.ok) throw await failure_of(answer);
  return true;
}

export async function log_out() {
  await send(address("page/logout"), posted({}));
}
