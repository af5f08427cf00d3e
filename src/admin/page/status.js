// The status page: asks /api/v1 every two seconds and shows what it says. Names that strangers have chosen (of users above all)
// enter the document as text alone: through `say` and `make`, which know no markup. The token stays in this tab.

const EVERY = 2000;
const EVERY_HIDDEN = 30000;
const EVERY_SLOW = 10000;
const PATIENCE = 15000;
const PAGE = matchMedia("(max-width: 48rem)").matches ? 10 : 25;
const DAYS_LEFT = 14;
const FAILURES = {
  bad_credentials: "wrong password",
  no_route: "no route",
  backend_down: "backend down",
  backend_refused: "backend refused",
  lookup_failed: "lookup failed",
  limited: "limited",
  aborted: "aborted",
  timeout: "timeout",
};
const PHASES = {
  running: ["ok", "running"],
  succeeded: ["drain", "succeeded by a new process"],
  draining: ["drain", "draining"],
  stopped: ["bad", "stopped"],
};

// ---------------------------------------------------------------------------------------------------- the document

const $ = (id) => document.getElementById(id);

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/// An element; what is given as children is text or elements, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [what, then] of Object.entries(value)) element.addEventListener(what, then);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function drawing(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SHAPES = {
  ok: "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13ZM5 8.3l2 2 4-4.3",
  bad: "M5.3 1.5h5.4l3.8 3.8v5.4l-3.8 3.8H5.3l-3.8-3.8V5.3ZM5.7 5.7l4.6 4.6M10.3 5.7l-4.6 4.6",
  drain: "M8 1.5v8.5M4.5 7 8 10.5 11.5 7M2.5 14.5h11",
  warn: "M8 1.8 14.8 14H1.2ZM8 6v4M8 11.9v.2",
  quiet: "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13ZM8 4.5V8l2.3 1.5",
};

/// A word with a shape of its own beside it, so that colour is not all that tells.
function mark(cell, kind, word, title = "") {
  const stamp = `${kind} ${word}`;
  if (cell.dataset.mark !== stamp) {
    cell.dataset.mark = stamp;
    const shape = drawing("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, drawing("path", { d: SHAPES[kind] }));
    cell.replaceChildren(make("span", { class: `mark ${kind}` }, shape, word));
  }
  cell.title = title;
}

// ---------------------------------------------------------------------------------------------------- words for numbers

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const number = (n) => (n == null ? "–" : grouped.format(n));
const fixed = (n, digits) => n.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function rate(n) {
  if (n == null) return "–";
  if (n === 0) return "0";
  return n < 0.095 ? fixed(n, 2) : n < 100 ? fixed(n, 1) : number(n);
}

function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (n >= 999.5 && at < units.length - 1) {
    n /= 1000;
    at += 1;
  }
  return `${at === 0 || n >= 99.95 ? number(n) : fixed(n, 1)}\u00a0${units[at]}`;
}

function millis(seconds) {
  if (seconds == null) return "–";
  if (seconds >= 10) return `${fixed(seconds, 0)}\u00a0s`;
  if (seconds >= 1) return `${fixed(seconds, 1)}\u00a0s`;
  return `${seconds < 0.01 ? fixed(seconds * 1000, 1) : number(seconds * 1000)}\u00a0ms`;
}

function span(seconds) {
  if (seconds == null) return "–";
  const s = Math.max(0, Math.floor(seconds));
  const two = (a, unit, b, smaller) => (b ? `${a}\u00a0${unit} ${b}\u00a0${smaller}` : `${a}\u00a0${unit}`);
  if (s < 60) return `${s}\u00a0s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", s < 600 ? s % 60 : 0, "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", s < 864000 ? Math.floor((s % 86400) / 3600) : 0, "h");
}

/// By mailmux's clock, which need not go as the one of this machine.
const now = () => Date.now() / 1000 + state.ahead;
const ago = (at) => (at == null ? "–" : `${span(now() - at)} ago`);
const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const minute = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
const date = (at) => new Date(at * 1000).toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" });
const moment = (at) => (at == null ? "" : `${date(at)}, ${clock(at)}`);
const spaced = (word) => word.replaceAll("_", " ");
const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

// ---------------------------------------------------------------------------------------------------- asking

class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

const token = {
  get: () => sessionStorage.getItem("mailmux-token") ?? "",
  set: (word) => (word ? sessionStorage.setItem("mailmux-token", word) : sessionStorage.removeItem("mailmux-token")),
};

async function ask(method, path, patience = PATIENCE) {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const signal = patience ? AbortSignal.timeout(patience) : undefined;
  // Relative: there may be a proxy in front, with a path of its own.
  const answer = await fetch(`api/v1/${path}`, { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  const text = await answer.text();
  if (answer.ok) return text ? JSON.parse(text) : {};
  let words = text.trim();
  try {
    words = JSON.parse(text).error ?? words;
  } catch {
    // It was said in plain text.
  }
  throw new Refused(answer.status, words);
}

const query = (wanted) => {
  const given = Object.entries(wanted).filter(([, value]) => value !== "" && value != null);
  return given.length ? `?${new URLSearchParams(given)}` : "";
};
const part = encodeURIComponent;

function inWords(error) {
  if (!(error instanceof Refused)) return "mailmux does not answer.";
  if (error.status === 401) return token.get() ? "The token is wrong." : "This needs the token.";
  if (error.status === 403) return `Refused: ${error.message || "this is not allowed here"}.`;
  if (error.status === 404) return error.message ? `Not found: ${error.message}.` : "It is not there any more.";
  if (error.status === 429) return "Too many attempts with a wrong token: wait a moment and try again.";
  return error.message ? `Refused: ${error.message}.` : `Refused (${error.status}).`;
}

// ---------------------------------------------------------------------------------------------------- charts

const WIDE = 360;
const HIGH = 60;

/// Lines over the last hour that end on the right; the first is filled. `unit` makes words of a value.
class Chart {
  constructor(parent, names, unit) {
    this.names = names;
    this.unit = unit;
    this.area = drawing("path", { class: "area" });
    this.lines = names.map((_, at) => drawing("path", { class: `line line-${at}` }));
    this.rule = drawing("line", { class: "rule", y1: 0, y2: HIGH, x1: -1, x2: -1 });
    this.svg = drawing("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img" }, this.area, ...this.lines, this.rule);
    this.most = make("span", { class: "most" });
    this.readout = make("span", { class: "readout", "aria-hidden": "true" });
    const keys = make("span", { class: "keys", "aria-hidden": "true" }, ...names.filter(Boolean).map((name, at) => make("span", { class: `key-${at}` }, name)));
    this.box = make("div", { class: "chart" }, this.svg, keys, this.most, this.readout);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    parent.append(this.box);
  }

  show(series, endsAt, step, label) {
    Object.assign(this, { series, endsAt, step });
    const values = series.flat().filter((value) => value != null);
    const most = Math.max(...values, 0);
    const top = most > 0 ? most * 1.08 : 1;
    const y = (value) => (HIGH - 1 - (value / top) * (HIGH - 3)).toFixed(1);
    series.forEach((line, at) => {
      const path = pathOf(line, y);
      this.lines[at].setAttribute("d", path);
      if (at === 0) this.area.setAttribute("d", path ? areaOf(line, y) : "");
    });
    say(this.most, values.length ? `most ${this.unit(most)}` : "no hour to show yet");
    const last = series[0]?.at(-1);
    const summary = values.length ? `now ${this.unit(last)}, at most ${this.unit(most)}` : "nothing yet";
    this.svg.setAttribute("aria-label", `${label} in the last ${span(series[0].length * step)}: ${summary}`);
  }

  point(event) {
    if (!this.series?.[0].length) return;
    const frame = this.svg.getBoundingClientRect();
    const back = Math.round(((frame.right - event.clientX) / frame.width) * WIDE);
    const length = this.series[0].length;
    const at = Math.min(length - 1, Math.max(0, length - 1 - back));
    const x = WIDE - (length - 1 - at);
    this.rule.setAttribute("x1", x);
    this.rule.setAttribute("x2", x);
    const when = minute(this.endsAt - (length - 1 - at) * this.step);
    const what = this.series.map((line, n) => `${this.names[n] ? `${this.names[n]} ` : ""}${this.unit(line[at])}`).join(" · ");
    say(this.readout, `${when}  ${what}`);
    this.box.classList.add("pointed");
  }

  leave() {
    this.box.classList.remove("pointed");
  }
}

function pathOf(line, y) {
  const from = WIDE - (line.length - 1);
  let path = "";
  let isDrawing = false;
  line.forEach((value, at) => {
    if (value == null) isDrawing = false;
    else {
      path += `${isDrawing ? "L" : "M"}${from + at} ${y(value)}`;
      // A point with nothing beside it is to be seen, too.
      if (!isDrawing && line[at + 1] == null) path += "h.5";
      isDrawing = true;
    }
  });
  return path;
}

function areaOf(line, y) {
  const from = WIDE - (line.length - 1);
  const points = line.map((value, at) => `L${from + at} ${y(value ?? 0)}`).join("");
  return `M${from} ${HIGH}${points}L${WIDE} ${HIGH}Z`;
}

/// A small one, for a row of a table; where a backend was down there is a mark below.
function spark(cell, line, up) {
  if (!cell.spark) {
    cell.spark = { area: drawing("path", { class: "area" }), path: drawing("path", { class: "line line-0" }), down: drawing("path", { class: "down" }) };
    const { area, path, down } = cell.spark;
    cell.append(drawing("svg", { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, path, down));
  }
  const top = Math.max(...line, 1) * 1.1;
  const y = (value) => (HIGH - 4 - (value / top) * (HIGH - 8)).toFixed(1);
  cell.spark.path.setAttribute("d", pathOf(line, y));
  cell.spark.area.setAttribute("d", line.length ? areaOf(line, y) : "");
  const from = WIDE - (up.length - 1);
  cell.spark.down.setAttribute("d", up.map((is, at) => (is ? "" : `M${from + at} ${HIGH - 3}h1.2`)).join(""));
}

// ---------------------------------------------------------------------------------------------------- tables

/// A table whose rows stay where they are while their numbers change, so that focus and selection do too. A column is
/// [label, how it is drawn, class]; the first one heads its row.
class Table {
  constructor(id, empty, key, columns) {
    this.table = $(id);
    this.empty = empty;
    this.key = key;
    this.columns = columns;
    this.rows = new Map();
    // Said once more in words, since on small screens a row is laid out as a card.
    const heads = columns.map(([label, , kind = ""]) => make("th", { scope: "col", role: "columnheader", class: kind }, kind === "do" ? make("span", { class: "hidden" }, label) : label));
    this.body = make("tbody", { role: "rowgroup" });
    this.table.setAttribute("role", "table");
    this.table.append(make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), this.body);
    this.nothing = make("tr", { role: "row", class: "nothing" }, make("td", { role: "cell", colspan: columns.length }, "…"));
    this.body.append(this.nothing);
  }

  show(items) {
    const seen = new Set();
    let place = this.body.firstChild;
    for (const item of items) {
      const key = this.key(item);
      if (seen.has(key)) continue;
      seen.add(key);
      let row = this.rows.get(key);
      if (!row) {
        row = this.row();
        this.rows.set(key, row);
      }
      row.item = item;
      this.columns.forEach(([, draw], at) => {
        const said = draw(item, row.cells[at], row);
        if (typeof said === "string") say(row.cells[at], said);
      });
      if (row.line === place) place = place.nextSibling;
      else this.body.insertBefore(row.line, place);
    }
    for (const [key, row] of this.rows) {
      if (!seen.has(key)) {
        row.line.remove();
        this.rows.delete(key);
      }
    }
    this.tell(items.length ? "" : this.empty);
  }

  /// Words in place of rows.
  tell(words) {
    if (!words) this.nothing.remove();
    else {
      say(this.nothing.firstChild, words);
      if (!this.nothing.isConnected) this.body.append(this.nothing);
    }
  }

  fail(error) {
    for (const row of this.rows.values()) row.line.remove();
    this.rows.clear();
    this.tell(inWords(error));
  }

  row() {
    const cells = this.columns.map(([label, , kind = ""], at) =>
      at === 0 ? make("th", { scope: "row", role: "rowheader", class: kind, "data-label": label }) : make("td", { role: "cell", class: kind, "data-label": label }),
    );
    return { cells, line: make("tr", { role: "row" }, ...cells), item: null };
  }
}

/// A button in a row, made once; what it is about is what the row shows when it is pressed.
function button(cell, row, name, label, act, kind = "") {
  cell.buttons ??= {};
  let found = cell.buttons[name];
  if (!found) {
    found = make("button", { type: "button", class: kind, on: { click: () => act(row.item) } }, name);
    cell.buttons[name] = found;
    cell.append(found);
  }
  if (found.getAttribute("aria-label") !== label) found.setAttribute("aria-label", label);
  return found;
}

/// Two lines in a cell, the second one small.
function lines(cell, first, second, title = "") {
  if (!cell.pair) {
    cell.pair = [make("span", { class: "first" }), make("span", { class: "second" })];
    cell.append(...cell.pair);
  }
  say(cell.pair[0], first);
  say(cell.pair[1], second);
  cell.title = title;
}

// ---------------------------------------------------------------------------------------------------- changes

/// Asks whether it is meant, does it, and says what came of it.
function change({ title, text, yes, time = false, path, done, begun = "" }) {
  const dialog = $("ask");
  const before = document.activeElement;
  say($("ask-title"), title);
  say($("ask-text"), text);
  say($("ask-yes"), yes);
  $("ask-for").hidden = !time;
  $("ask-token").hidden = token.get() !== "";
  $("ask-token-field").value = "";
  const close = () => {
    dialog.close();
    // The row it was in may have gone meanwhile.
    if (before?.isConnected) before.focus();
    else $("main").focus();
  };
  $("ask-no").onclick = close;
  $("ask-form").onsubmit = (event) => {
    event.preventDefault();
    if ($("ask-token-field").value) useToken($("ask-token-field").value);
    $("ask-token-field").value = "";
    close();
    carryOut(path($("ask-time").value), done, begun);
  };
  dialog.showModal();
  ($("ask-token").hidden ? $("ask-no") : $("ask-token-field")).focus();
}

async function carryOut(path, done, begun) {
  const isBegun = begun ? result("quiet", begun, Infinity) : null;
  try {
    // A drain answers when it is over, which may take as long as its sessions.
    result("ok", done(await ask("POST", path, 0)));
  } catch (error) {
    result("bad", inWords(error));
    if (error.status === 401) refuseToken();
  }
  isBegun?.remove();
  soon();
}

function result(kind, words, time = kind === "bad" ? 30000 : 12000) {
  const line = make("p", { class: `result ${kind}` }, make("span", {}), make("button", { type: "button", class: "plain", "aria-label": "Dismiss" }, "×"));
  mark(line.firstChild, kind, words);
  const go = () => line.remove();
  line.lastChild.addEventListener("click", go);
  $("results").append(line);
  while ($("results").children.length > 4) $("results").firstChild.remove();
  if (Number.isFinite(time)) setTimeout(go, time);
  return line;
}

const kicked = ({ dismissed }) => (dismissed === 0 ? "Nobody was there to be kicked." : `${plural(dismissed, "session")} told to leave.`);

const kickSession = (session) =>
  change({
    title: `Kick ${session.user}?`,
    text: `The session from ${session.client}:${session.client_port} at ${session.backend ?? "no backend yet"} hears BYE and ends. Its mail program may come back at once.`,
    yes: "Kick",
    path: () => `sessions/${part(session.id)}/kick`,
    done: kicked,
  });

const kickUser = (user) =>
  change({
    title: `Kick ${user.user}?`,
    text: `${user.sessions === 1 ? "The session" : `All ${number(user.sessions)} sessions`} of this user will end. Mail programs may come back at once.`,
    yes: "Kick",
    path: () => `users/${part(user.user)}/kick`,
    done: kicked,
  });

const drain = (backend) =>
  change({
    title: `Drain ${backend.name}?`,
    text: `It gets nobody new from now on. Its ${plural(backend.sessions, "session")} may end by themselves for a while; the rest is then told to leave.`,
    yes: "Drain",
    time: true,
    path: (time) => `backends/${part(backend.name)}/drain?for=${time}`,
    begun: `Draining ${backend.name}.`,
    done: ({ dismissed }) => `${backend.name} is drained; ${dismissed ? `${plural(dismissed, "session")} had to be told to leave` : "all sessions ended by themselves"}.`,
  });

const undrain = (backend) =>
  change({
    title: `Put ${backend.name} back in use?`,
    text: "Logins go there again from now on.",
    yes: "Put back",
    path: () => `backends/${part(backend.name)}/undrain`,
    done: () => `${backend.name} is in use again.`,
  });

const pardon = (held) =>
  change({
    title: `Pardon ${held.key}?`,
    text: `Its ${plural(held.failures ?? 0, "failure")} are forgotten, and it may log in at once.`,
    yes: "Pardon",
    path: () => `limits/pardon${query({ [held.kind === "user" ? "user" : "network"]: held.key })}`,
    done: ({ pardoned }) => (pardoned === 0 || pardoned === false ? `${held.key} was not held any more.` : `${held.key} is pardoned.`),
  });

/// When a backend was up and when it was not, the latest first.
async function showTurns({ name }) {
  try {
    const { history = [] } = await ask("GET", `backends/${part(name)}`);
    say($("turns-title"), `${name}: up and down`);
    const shown = [...history].reverse().map(({ at, up, reason }) => {
      const word = make("span");
      mark(word, up ? "ok" : "bad", up ? "up" : "down");
      return make("li", {}, word, ` since ${moment(at)}`, make("span", { class: "second" }, reason ?? ""));
    });
    $("turns-list").replaceChildren(...(shown.length ? shown : [make("li", {}, "It has been as it is since the start.")]));
    $("turns").showModal();
  } catch (error) {
    result("bad", inWords(error));
  }
}

$("turns-close").addEventListener("click", () => $("turns").close());

// ---------------------------------------------------------------------------------------------------- what is shown

const state = { ahead: 0, status: null, history: null, polls: [], refused: false, lostAt: null, pages: [""], next: null, slowAt: 0 };

function tile(id, names, unit) {
  const element = $(id);
  const figure = make("p", { class: "figure" });
  const detail = make("p", { class: "detail muted" });
  element.append(make("div", { class: "reading" }, figure, detail));
  return { figure, detail, chart: new Chart(element, names, unit) };
}

const tiles = {
  sessions: tile("tile-sessions", [""], number),
  logins: tile("tile-logins", [""], (n) => `${rate(n)}/s`),
  failures: tile("tile-failures", [""], (n) => `${rate(n)}/s`),
  latency: tile("tile-latency", ["p95", "p50", "p99"], millis),
  bytes: tile("tile-bytes", ["to clients", "to backends"], (n) => `${bytes(n)}/s`),
  queue: tile("tile-queue", [""], number),
};

/// How fast a total grows, by what was heard in the last ten seconds; before that, by the history.
function growth(total, fallback) {
  const first = state.polls[0];
  const last = state.polls.at(-1);
  if (!first || last.at - first.at < 1) return fallback ?? null;
  return Math.max(0, total(last.status) - total(first.status)) / (last.at - first.at);
}

function figure(element, text, unit = "") {
  if (element.dataset.text === text + unit) return;
  element.dataset.text = text + unit;
  element.replaceChildren(text, ...(unit ? [make("small", {}, ` ${unit}`)] : []));
}

function showStatus(status) {
  const [kind, word] = PHASES[status.phase] ?? ["warn", status.phase];
  mark($("phase"), kind, word);
  say($("version"), `version ${status.version}, process ${status.pid}`);
  say($("uptime"), span(status.uptime_seconds));
  $("uptime").title = `since ${moment(status.started_at)}`;
  showReload(status.reload);
  const used = status.max_descriptors ? status.open_descriptors / status.max_descriptors : 0;
  const of = `${number(status.open_descriptors)} of ${number(status.max_descriptors)}`;
  if (used > 0.8) mark($("descriptors"), "warn", of);
  else plainly($("descriptors"), of);
  say($("memory"), bytes(status.resident_bytes));
  $("elder").hidden = !status.predecessors;
  say($("predecessors"), `${plural(status.predecessors, "process", "processes")}, ${plural(status.predecessor_sessions, "session")}`);
  document.title = `${number(status.sessions.logged_in)} · mailmux`;

  const latest = (name) => state.history?.[name]?.at(-1);
  figure(tiles.sessions.figure, number(status.sessions.total));
  say(tiles.sessions.detail, `${number(status.sessions.logged_in)} logged in, ${number(status.sessions.preauth)} not yet`);
  figure(tiles.logins.figure, rate(growth((s) => s.logins.ok ?? 0, latest("logins_ok"))), "per second");
  say(tiles.logins.detail, `${number(status.logins.ok)} since the start`);
  showFailures(status, latest("logins_failed"));
  const { p50, p95, p99 } = status.login_seconds ?? {};
  figure(tiles.latency.figure, millis(p95), p95 == null ? "" : "p95");
  say(tiles.latency.detail, p50 == null ? "nobody has logged in for five minutes" : `p50 ${millis(p50)}, p99 ${millis(p99)}`);
  figure(tiles.bytes.figure, bytes(growth((s) => s.bytes.to_client, latest("bytes_to_client"))), "/s to clients");
  say(tiles.bytes.detail, `${bytes(growth((s) => s.bytes.to_backend, latest("bytes_to_backend")))}/s to backends; ${bytes(status.bytes.to_client)} and ${bytes(status.bytes.to_backend)} in all`);
  figure(tiles.queue.figure, number(status.queue));
  say(tiles.queue.detail, status.queue ? "logins that wait for a backend with room" : "every backend has room");
  $("tile-queue").classList.toggle("alert", status.queue > 0);

  tables.listeners.show(status.listeners);
  options($("filter-listener"), status.listeners.map((listener) => listener.name));
  say($("totals-note"), `${span(status.uptime_seconds)} ago; log level ${status.log_level}`);
  totals($("totals-logins"), status.logins);
  totals($("totals-closed"), status.closed);
  totals($("totals-limited"), status.limited);
}

function plainly(element, text) {
  delete element.dataset.mark;
  say(element, text);
}

function showReload({ last_success_at: good, last_failure_at: bad, failed }) {
  const isBad = bad != null ? bad > good : false;
  if (isBad) mark($("reload"), "bad", `refused ${ago(bad)}`, `The one that is in use was read at ${moment(good)}`);
  else mark($("reload"), "ok", `read ${ago(good)}`, moment(good) + (failed ? `; ${plural(failed, "reload")} refused since the start` : ""));
}

function showFailures(status, latest) {
  const failed = (s) => Object.entries(s.logins).reduce((sum, [outcome, n]) => sum + (outcome === "ok" ? 0 : n), 0);
  figure(tiles.failures.figure, rate(growth(failed, latest)), "per second");
  const by = state.history?.logins_failed_by ?? {};
  const recent = Object.entries(by).map(([outcome, line]) => [outcome, mean(line.slice(-30))]).filter(([, n]) => n > 0);
  recent.sort((a, b) => b[1] - a[1]);
  const causes = recent.slice(0, 4).map(([outcome, n]) => `${FAILURES[outcome] ?? spaced(outcome)} ${rate(n)}`);
  say(tiles.failures.detail, causes.length ? causes.join(", ") : "none in the last five minutes");
}

const mean = (line) => (line.length ? line.reduce((sum, n) => sum + n, 0) / line.length : 0);

function totals(list, counts) {
  const entries = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  const most = Math.max(...entries.map(([, n]) => n), 1);
  list.items ??= new Map();
  const shown = entries.filter(([, n], at) => n > 0 || at === 0);
  for (const [name, n] of shown) {
    let item = list.items.get(name);
    if (!item) {
      const bar = drawing("rect", { height: 4, rx: 2 });
      const svg = drawing("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, bar);
      item = { bar, count: make("span", {}), line: make("div", {}, make("dt", {}, FAILURES[name] ?? spaced(name)), make("dd", {})) };
      item.line.lastChild.append(item.count, svg);
      list.items.set(name, item);
    }
    say(item.count, number(n));
    item.bar.setAttribute("width", Math.max((n / most) * 100, n ? 0.5 : 0));
    if (list.children[shown.findIndex(([other]) => other === name)] !== item.line) list.append(item.line);
  }
}

function showHistory(history) {
  const { ends_at: end, step_seconds: step } = history;
  tiles.sessions.chart.show([history.sessions], end, step, "Sessions");
  tiles.logins.chart.show([history.logins_ok], end, step, "Logins per second");
  tiles.failures.chart.show([history.logins_failed], end, step, "Failed logins per second");
  const { p50 = [], p95 = [], p99 = [] } = history.login_seconds ?? {};
  tiles.latency.chart.show([p95, p50, p99], end, step, "Time within which 95 of 100 logins were done");
  tiles.bytes.chart.show([history.bytes_to_client, history.bytes_to_backend], end, step, "Bytes per second to clients");
  tiles.queue.chart.show([history.queue], end, step, "Logins that waited");
}

const LINKS = [["active", "in use"], ["warm", "warm"], ["reusable", "waiting"]];

function links(backend, cell) {
  if (!cell.bars) {
    cell.bars = LINKS.map(([name]) => drawing("rect", { class: `link-${name}`, height: 6, y: 0 }));
    cell.words = make("span", { class: "second" });
    cell.count = make("span", { class: "first" });
    cell.append(cell.count, drawing("svg", { class: "links", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, ...cell.bars), cell.words);
  }
  const counts = LINKS.map(([name]) => backend.pool?.[name] ?? 0);
  const all = Math.max(backend.links ?? 0, counts.reduce((a, b) => a + b, 0));
  const most = backend.max_links || Math.max(all, 1);
  let x = 0;
  counts.forEach((count, at) => {
    const width = Math.min(100 - x, (count / most) * 100);
    cell.bars[at].setAttribute("x", x);
    cell.bars[at].setAttribute("width", Math.max(0, width));
    x += width;
  });
  say(cell.count, backend.max_links ? `${number(all)} of ${number(backend.max_links)}` : number(all));
  say(cell.words, LINKS.map(([, word], at) => [word, counts[at]]).filter(([, n]) => n).map(([word, n]) => `${number(n)} ${word}`).join(", ") || "none");
}

function backendState(backend, cell) {
  const { health } = backend;
  const since = health.since_at == null ? "" : `for ${span(now() - health.since_at)}`;
  cell.word ??= cell.appendChild(make("span", { class: "first" }));
  cell.why ??= cell.appendChild(make("span", { class: "second why" }));
  const kind = { up: "ok", down: "bad", draining: "drain" }[backend.state] ?? "warn";
  mark(cell.word, kind, backend.state, health.since_at == null ? "" : `since ${moment(health.since_at)}`);
  const reason = health.up ? "" : (health.reason ?? "");
  say(cell.why, [since, reason].filter(Boolean).join(": "));
  cell.why.title = reason;
}

const tables = {
  backends: new Table("table-backends", "There are no backends.", (backend) => backend.name, [
    ["Backend", (b, cell, row) => {
      cell.turns ??= cell.appendChild(make("button", { type: "button", class: "plain", title: "When it was up and when it was down", on: { click: () => showTurns(row.item) } }));
      cell.where ??= cell.appendChild(make("span", { class: "second" }));
      say(cell.turns, b.name);
      say(cell.where, `${b.address}${b.tls === "none" ? "" : ` · ${b.tls}`}`);
      cell.title = (b.groups ?? []).length ? `group ${b.groups.join(", ")}` : "";
    }, "name"],
    ["State", backendState, "state"],
    ["Sessions", (b, cell) => { cell.count ??= cell.appendChild(make("span", { class: "first" })); say(cell.count, number(b.sessions)); const h = state.history?.backends?.[b.name]; spark(cell, h?.sessions ?? [], h?.up ?? []); }, "number with-spark"],
    ["Links", links, "wide"],
    ["Weight", (b) => (b.configured_weight != null && b.weight !== b.configured_weight ? `${b.weight} (${b.configured_weight})` : number(b.weight)), "number"],
    ["Queue", (b, cell) => { cell.classList.toggle("alert", b.queue > 0); return number(b.queue); }, "number"],
    ["Logins/s", (b) => rate(state.history?.backends?.[b.name]?.logins?.at(-1)), "number"],
    ["p95", (b, cell) => { const { p50, p95, p99 } = b.login_seconds ?? {}; cell.title = `since the start: p50 ${millis(p50)}, p95 ${millis(p95)}, p99 ${millis(p99)}`; return millis(p95); }, "number"],
    ["Errors", (b) => number(b.errors_total), "number"],
    ["Bytes", (b, cell) => lines(cell, bytes(b.bytes?.to_client), `${bytes(b.bytes?.to_backend)} sent`), "number"],
    ["What to do", (b, cell, row) => {
      const drained = b.state === "draining";
      button(cell, row, "Drain", `Drain ${b.name}`, drain).hidden = drained;
      button(cell, row, "Put back", `Put ${b.name} back in use`, undrain).hidden = !drained;
    }, "do"],
  ]),
  sessions: new Table("table-sessions", "Nobody.", (session) => session.id, [
    ["User", (s, cell) => { cell.title = s.user; return s.user; }, "name user"],
    ["Client", (s, cell) => lines(cell, s.client, `port ${s.client_port}`), "address"],
    ["Backend", (s) => s.backend ?? "–"],
    ["State", (s, cell) => mark(cell, { idle: "quiet", active: "ok" }[s.state] ?? "drain", spaced(s.state), s.state === "idle" ? "in IDLE" : "")],
    ["Login", (s, cell) => lines(cell, s.listener, `${s.mechanism ?? "?"}, ${s.tls ? `TLS ${s.tls}` : "in clear"}`)],
    ["Since", (s, cell) => { cell.title = moment(s.since_at); return span(s.duration_seconds); }, "number"],
    ["Quiet", (s) => span(s.quiet_seconds), "number"],
    ["Received", (s) => bytes(s.bytes_to_client), "number"],
    ["Sent", (s) => bytes(s.bytes_to_backend), "number"],
    ["What to do", (s, cell, row) => void button(cell, row, "Kick", `Kick the session of ${s.user} from ${s.client}`, kickSession, "danger"), "do"],
  ]),
  users: new Table("table-users", "Nobody is logged in.", (user) => user.user, [
    ["User", (u, cell) => {
      cell.link ??= cell.appendChild(make("button", { type: "button", class: "plain", title: "Show the sessions" }));
      cell.link.onclick = () => filterBy({ user: u.user });
      say(cell.link, u.user);
    }, "name user"],
    ["Sessions", (u) => number(u.sessions), "number"],
    ["Received", (u) => bytes(u.bytes_to_client), "number"],
    ["Sent", (u) => bytes(u.bytes_to_backend), "number"],
    ["Held", (u) => (u.held_until_at == null ? "–" : `for ${span(u.held_until_at - now())}`)],
    ["Moved to", (u) => u.moved_to ?? "–"],
    ["What to do", (u, cell, row) => { button(cell, row, "Kick", `Kick all sessions of ${u.user}`, kickUser, "danger").hidden = !u.sessions; }, "do"],
  ]),
  limits: new Table("table-limits", "Nobody is held.", (held) => `${held.kind} ${held.key} ${held.limit}`, [
    ["Who", (h, cell) => lines(cell, h.key, h.kind), "name user"],
    ["Limit", (h) => spaced(h.limit)],
    ["Failures", (h) => number(h.failures), "number"],
    ["Why", (h) => h.reason ?? "–", "why-cell"],
    ["Since", (h, cell) => { cell.title = moment(h.since_at); return ago(h.since_at); }, "number"],
    ["Still for", (h, cell) => { cell.title = moment(h.until_at); return h.until_at == null ? "–" : span(h.until_at - now()); }, "number"],
    ["What to do", (h, cell, row) => { button(cell, row, "Pardon", `Pardon ${h.key}`, pardon).hidden = !["network", "user"].includes(h.kind); }, "do"],
  ]),
  listeners: new Table("table-listeners", "There are none.", (listener) => listener.name, [
    ["Listener", (l, cell) => lines(cell, l.name, l.address), "name"],
    ["TLS", (l) => ({ implicit: "from the start", starttls: "STARTTLS", none: "none" })[l.tls] ?? l.tls],
    ["Sessions", (l) => number(l.sessions), "number"],
    ["Not logged in", (l) => number(l.preauth), "number"],
    ["Accepted", (l) => number(l.accepted_total), "number"],
  ]),
  pool: new Table("table-pool", "No route has a pool.", (pool) => pool.backend, [
    ["Backend", (p) => p.backend, "name"],
    ["Pool", (p) => p.mode],
    ["In use", (p) => number(p.active), "number"],
    ["Warm", (p) => number(p.warm), "number"],
    ["Waiting for its user", (p) => number(p.reusable), "number"],
    ["Found one", (p) => { const all = sum(p.checkouts); return all ? `${fixed((((p.checkouts.hit ?? 0) + (p.checkouts.warm ?? 0)) / all) * 100, 0)} %` : "–"; }, "number"],
    ["Logins", (p) => counted(p.checkouts), "words"],
    ["Given up", (p) => counted(p.evictions), "words"],
  ]),
  certificates: new Table("table-certificates", "No listener speaks TLS.", (c) => `${c.name} ${c.not_after_at} ${c.file}`, [
    ["Certificate", (c, cell) => lines(cell, c.name, (c.names ?? []).filter((name) => name !== c.name).join(", ") || (c.file ?? "made by mailmux itself"), [c.file, c.key, `by ${c.issuer}`].filter(Boolean).join("\n")), "name"],
    ["Issuer", (c) => c.issuer ?? "–", "words"],
    ["Good until", (c) => date(c.not_after_at)],
    ["Days left", (c, cell) => {
      const days = Math.floor(c.days_left);
      if (days < 0) mark(cell, "bad", "expired");
      else mark(cell, days < DAYS_LEFT ? "warn" : "ok", number(days));
    }, "number"],
  ]),
};

const sum = (counts) => Object.values(counts ?? {}).reduce((a, b) => a + b, 0);
const counted = (counts) => Object.entries(counts ?? {}).filter(([, n]) => n).map(([name, n]) => `${spaced(name)} ${number(n)}`).join(", ") || "–";

function showBackends({ backends }) {
  tables.backends.show(backends);
  options($("filter-backend"), backends.map((backend) => backend.name));
  const down = backends.filter((backend) => backend.state === "down").length;
  const draining = backends.filter((backend) => backend.state === "draining").length;
  const bad = [down && `${down} down`, draining && `${draining} draining`].filter(Boolean).join(", ");
  say($("backends-note"), bad || `${backends.length === 1 ? "it is" : "all are"} up`);
  badge("count-backends", down ? `${backends.length - down} of ${backends.length}` : backends.length, down ? "bad" : "");
}

/// Beside the name of a section: a number, or words.
function badge(id, n, kind = "") {
  say($(id), typeof n === "number" ? number(n) : n);
  $(id).className = kind;
}

function options(select, names) {
  const wanted = ["", ...names];
  if (wanted.length === select.options.length && wanted.every((name, at) => select.options[at].value === name)) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((name) => make("option", { value: name }, name || "any")));
  select.value = wanted.includes(chosen) ? chosen : "";
}

// ---------------------------------------------------------------------------------------------------- sessions

const filters = () => Object.fromEntries([...new FormData($("filters"))].map(([name, value]) => [name, value.trim()]));

async function loadSessions() {
  const wanted = filters();
  const asked = JSON.stringify([wanted, state.pages]);
  try {
    const answer = await ask("GET", `sessions${query({ ...wanted, limit: PAGE, after: state.pages.at(-1) })}`);
    // Somebody has typed on meanwhile.
    if (asked !== JSON.stringify([filters(), state.pages])) return;
    if (!answer.sessions.length && state.pages.length > 1) return void turn([""]);
    showSessions(answer, wanted);
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    if (asked !== JSON.stringify([filters(), state.pages])) return;
    tables.sessions.show([]);
    $("kick-all").hidden = true;
    say($("sessions-error"), inWords(error));
    $("sessions-error").hidden = false;
  }
}

function showSessions({ total, next, sessions }, wanted) {
  state.next = next;
  $("sessions-error").hidden = true;
  tables.sessions.show(sessions);
  const isFiltered = Object.values(wanted).some(Boolean);
  if (!sessions.length) tables.sessions.tell(isFiltered ? "No session is like that." : "Nobody is logged in.");
  say($("sessions-note"), isFiltered ? `${number(total)} like this` : `${number(total)} with a user`);
  if (!isFiltered) badge("count-sessions", total);
  const first = (state.pages.length - 1) * PAGE;
  say($("page-where"), total ? `${number(first + 1)} to ${number(first + sessions.length)} of ${number(total)}` : "");
  $("page-first").disabled = $("page-before").disabled = state.pages.length < 2;
  $("page-after").disabled = next == null;
  const { user, network, backend, listener, state: how } = wanted;
  $("kick-all").hidden = !(total && (user || network || backend) && !listener && !how);
  say($("kick-all"), total === 1 ? "Kick it" : `Kick all ${number(total)}`);
}

function turn(pages) {
  state.pages = pages;
  loadSessions().catch(lost);
}

function filterBy(values) {
  $("filters").reset();
  for (const [name, value] of Object.entries(values)) $("filters").elements[name].value = value;
  turn([""]);
  $("sessions").scrollIntoView();
  $("filter-user").focus({ preventScroll: true });
}

// ---------------------------------------------------------------------------------------------------- round and round

let timer = 0;
let isAsking = false;

/// One part of the page, which may be missing without harm to the others.
async function load(path, show, table) {
  try {
    show(await ask("GET", path));
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401 || error.status === 429) throw error;
    table?.fail(error);
  }
}

async function round() {
  clearTimeout(timer);
  if (isAsking || state.refused) return;
  isAsking = true;
  try {
    const status = await ask("GET", "status");
    heard(status);
    const isSlow = Date.now() - state.slowAt >= EVERY_SLOW;
    if (isSlow) await load("history", (history) => showHistory((state.history = history)));
    showStatus(status);
    const parts = [load("backends", showBackends, tables.backends), loadSessions(), load("limits?limit=100", showLimits, tables.limits), loadUsers()];
    if (isSlow) parts.push(load("pool", ({ backends }) => tables.pool.show(backends.filter((b) => b.mode !== "off" || sum(b.checkouts))), tables.pool), load("certificates", showCertificates, tables.certificates));
    await Promise.all(parts);
    if (isSlow) state.slowAt = Date.now();
    found();
  } catch (error) {
    lost(error);
  } finally {
    isAsking = false;
    document.querySelectorAll(".scroll").forEach(reachable);
    schedule();
  }
}

function schedule() {
  clearTimeout(timer);
  if (!state.refused) timer = setTimeout(round, document.hidden ? EVERY_HIDDEN : EVERY);
}

function soon() {
  clearTimeout(timer);
  if (!state.refused) timer = setTimeout(round, 100);
}

const loadUsers = () => load(`users?limit=10&sort=${$("users-sort").value}`, ({ total, users }) => { tables.users.show(users); badge("count-users", total); }, tables.users);

function showLimits({ total, held }) {
  tables.limits.show(held);
  badge("count-limits", total, total ? "warn" : "");
  say($("limits-note"), total > held.length ? `${number(held.length)} of ${number(total)}` : "");
}

function showCertificates({ certificates }) {
  const soonest = [...certificates].sort((a, b) => a.not_after_at - b.not_after_at);
  tables.certificates.show(soonest.slice(0, 200));
  const ending = soonest.filter((certificate) => certificate.days_left < DAYS_LEFT).length;
  badge("count-certificates", ending ? `${ending} ending` : "", ending ? "warn" : "");
}

/// What cannot be seen whole can be scrolled with the keyboard.
function reachable(box) {
  const isCut = box.scrollWidth > box.clientWidth + 1;
  if (isCut === box.hasAttribute("tabindex")) return;
  const caption = box.querySelector("caption").textContent;
  for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", caption]]) {
    if (isCut) box.setAttribute(name, value);
    else box.removeAttribute(name);
  }
}

function heard(status) {
  const before = state.status;
  if (before && Math.abs(before.started_at - status.started_at) > 1) {
    state.polls = [];
    state.pages = [""];
    state.slowAt = 0;
    const isOther = before.version !== status.version;
    result("quiet", isOther ? `mailmux is now version ${status.version}: load this page anew.` : "mailmux was started anew.");
  }
  state.status = status;
  state.ahead = status.started_at + status.uptime_seconds - Date.now() / 1000;
  state.polls.push({ at: performance.now() / 1000, status });
  while (state.polls.length > 6) state.polls.shift();
}

function found() {
  state.lostAt = null;
  state.heardAt = Date.now() / 1000;
  document.body.classList.remove("waiting", "lost");
  trouble("");
  mark($("live"), "ok", `live, ${clock(state.heardAt)}`);
}

function lost(error) {
  if (error instanceof Refused && error.status === 401) return refuseToken();
  if (error instanceof Refused) return trouble(inWords(error));
  if (!(error instanceof TypeError) && error.name !== "TimeoutError") console.error(error);
  state.lostAt ??= Date.now() / 1000;
  document.body.classList.add("lost");
  mark($("live"), "bad", "no answer");
  trouble(`No answer since ${clock(state.heardAt ?? state.lostAt)}. Asking again every ${EVERY / 1000} seconds.`);
}

function trouble(words) {
  $("trouble").hidden = !words;
  say($("trouble"), words);
}

// ---------------------------------------------------------------------------------------------------- the token

function refuseToken() {
  const had = token.get();
  token.set("");
  showToken();
  // Where reading takes none, the page goes on without.
  ask("GET", "status").then(soon, (error) => {
    if (!(error instanceof Refused) || error.status !== 401) return lost(error);
    state.refused = true;
    $("locked").hidden = false;
    $("data").hidden = true;
    document.body.classList.remove("waiting");
    trouble(had ? "The token is wrong." : "");
    mark($("live"), "warn", "token needed");
  });
}

function useToken(word) {
  token.set(word.trim());
  showToken();
  state.refused = false;
  $("locked").hidden = true;
  $("data").hidden = false;
  trouble("");
}

function showToken() {
  const has = token.get() !== "";
  $("token").value = "";
  for (const id of ["token-label", "token", "token-use"]) $(id).hidden = has;
  for (const id of ["token-kept", "token-forget"]) $(id).hidden = !has;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("token").value.trim()) return;
  useToken($("token").value);
  $("token-forget").focus();
  soon();
});
$("token-forget").addEventListener("click", () => {
  token.set("");
  showToken();
  $("token").focus();
  soon();
});

// ---------------------------------------------------------------------------------------------------- keys and fields

function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme").value = theme;
}

$("theme").addEventListener("change", () => {
  localStorage.setItem("mailmux-theme", $("theme").value);
  paint($("theme").value);
});

let typing = 0;
const refilter = () => {
  clearTimeout(typing);
  typing = setTimeout(() => turn([""]), 250);
};
$("filters").addEventListener("input", refilter);
$("filters").addEventListener("reset", refilter);
$("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  turn([""]);
});
$("users-sort").addEventListener("change", () => loadUsers().catch(lost));
$("page-first").addEventListener("click", () => turn([""]));
$("page-before").addEventListener("click", () => turn(state.pages.slice(0, -1)));
$("page-after").addEventListener("click", () => state.next != null && turn([...state.pages, state.next]));
$("kick-all").addEventListener("click", () => {
  const { user, network, backend } = filters();
  const whose = [user && `of ${user}`, network && `from ${network}`, backend && `at ${backend}`].filter(Boolean).join(" ");
  change({
    title: `Kick all sessions ${whose}?`,
    text: "They hear BYE and end. Their mail programs may come back at once.",
    yes: "Kick all",
    path: () => `sessions/kick${query({ user, network, backend })}`,
    done: kicked,
  });
});
$("ask").addEventListener("cancel", (event) => {
  event.preventDefault();
  $("ask-no").click();
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, select, textarea, dialog");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  event.preventDefault();
  $("filter-user").focus();
  $("filter-user").select();
});
document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : soon()));

paint(localStorage.getItem("mailmux-theme") ?? "");
showToken();
round();
