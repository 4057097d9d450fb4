"use strict";
// Everything that a writer wrote is set as text; nothing becomes markup.

const FIELDS = { prompt: [["text", "Prompt"]], dialogue: [["prompt", "About"], ["question", "Question"], ["answer", "Answer"]] };
const STATE_OF = { keep: "kept", drop: "dropped", open: "open" };
const VERDICT_OF = { kept: "keep", dropped: "drop", open: "open" };
const EDIT_PAUSE_MS = 400;
const at = id => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const rows = () => [...document.querySelectorAll(".entry")];
// Decisions reach the disk one after the other, in the order in which they were made.
let line = Promise.resolve();
// Those that were made and not sent yet.
const unsent = new Set();

// What is sent outlives the page: a decision may be the last thing before it is closed.
async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), keepalive: true };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The program does not answer; run it again to go on.");
  }
  const answer = await reply.json().catch(() => ({ error: reply.statusText }));
  if (!reply.ok) throw Object.assign(new Error(answer.error || reply.statusText), { stands: answer.stands });
  return answer;
}

function say(text, isBad) {
  const message = at("message");
  message.textContent = text;
  message.classList.toggle("bad", Boolean(isBad));
  message.hidden = !text;
}

function show(tally) {
  for (const [name, count] of Object.entries(tally)) at(name).textContent = count;
}

function showHeld(held) {
  const { prompts, dialogues } = held;
  at("held").querySelector("summary").textContent =
    `In the file: ${counted(prompts.length, "prompt")}, ${counted(dialogues.length, "dialogue")} (a language model sees up to twelve of each at a time)`;
  const list = (title, items) => {
    const part = make("section");
    const ordered = make("ol");
    ordered.append(...items);
    part.append(make("h3", "", title), ordered);
    return part;
  };
  const dialogue = ({ prompt, question, answer }) => {
    const item = make("li", "", `${question} — ${answer}`);
    item.append(make("span", "", prompt));
    return item;
  };
  at("held").querySelector(".held").replaceChildren(
    list("Prompts", prompts.map(({ text }) => make("li", "", text))), list("Dialogues", dialogues.map(dialogue)));
}

function entryOf(row) {
  const entry = { kind: row.dataset.kind };
  for (const field of row.querySelectorAll("textarea")) entry[field.dataset.field] = field.value;
  return entry;
}

function decide(row, verdict) {
  if (row.dataset.state === "entered") return;
  clearTimeout(row.waiting);
  row.waiting = undefined;
  const before = row.dataset.state;
  row.dataset.state = STATE_OF[verdict];
  const said = { id: row.dataset.id, verdict, entry: entryOf(row), at_ms: performance.timeOrigin + performance.now() };
  unsent.add(said);
  line = line.then(() => unsent.has(said) ? send(said) : undefined).then(
    answer => { if (answer) show(answer.tally); row.querySelector(".where").textContent = ""; },
    error => {
      if (error.stands) showEntry(row, error.stands); else row.dataset.state = before;
      row.querySelector(".where").textContent = error.message;
    });
}

// What stands in the program's memory, where another page had a later word.
function showEntry(row, item) {
  clearTimeout(row.waiting);
  row.waiting = undefined;
  row.dataset.state = item.state;
  for (const field of row.querySelectorAll("textarea")) {
    field.value = item[field.dataset.field];
    field.disabled = item.state === "entered";
  }
}

function send(said) {
  unsent.delete(said);
  return ask("decisions", said);
}

function edited(row) {
  clearTimeout(row.waiting);
  row.waiting = setTimeout(() => decide(row, VERDICT_OF[row.dataset.state]), EDIT_PAUSE_MS);
}

// What was typed in the last moments is said before anything is saved.
function flush() {
  for (const row of rows()) {
    if (row.waiting !== undefined) decide(row, VERDICT_OF[row.dataset.state]);
  }
  return line;
}

// A page that is closed waits for no turn: what is left is sent at once, in its order.
function leave() {
  flush();
  for (const said of unsent) send(said).catch(() => {});
}

function row(item) {
  const element = make("div", "entry");
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", item.kind);
  Object.assign(element.dataset, { id: item.id, kind: item.kind, state: item.state });
  const fields = make("div", "fields");
  for (const [name, title] of FIELDS[item.kind]) {
    const label = make("label", "", "");
    const area = make("textarea");
    area.dataset.field = name;
    area.rows = 1;
    area.spellcheck = false;
    area.maxLength = 1000;
    area.value = item[name];
    area.disabled = item.state === "entered";
    area.addEventListener("input", () => edited(element));
    label.append(make("span", "", title), area);
    fields.append(label);
  }
  const choice = make("div", "choice");
  for (const [verdict, title] of [["keep", "Keep"], ["drop", "Drop"]]) {
    const button = make("button", verdict, title);
    button.addEventListener("click", () => decide(element, element.dataset.state === STATE_OF[verdict] ? "open" : verdict));
    choice.append(button);
  }
  element.append(fields, choice, make("p", "where", ""));
  return element;
}

function card(found) {
  const element = make("article", "card");
  element.setAttribute("aria-label", found.prompt);
  if (found.pictures.length) {
    const plates = make("div", "plates");
    for (const picture of found.pictures) {
      const image = make("img", picture.width_px && picture.width_px <= 128 ? "plate pixels" : "plate");
      image.src = "pictures/" + encodeURIComponent(picture.file);
      image.alt = found.prompt;
      image.loading = "lazy";
      plates.append(image);
    }
    element.append(plates);
  } else {
    element.classList.add("bare");
  }
  const leaf = make("div", "leaf");
  const facts = make("ul", "facts");
  facts.append(...found.facts.map(fact => make("li", "", fact)), make("li", "origin", found.origin));
  leaf.append(facts, ...found.entries.map(row));
  element.append(leaf);
  return element;
}

function step(from, by) {
  const all = rows();
  const next = all[Math.min(Math.max(all.indexOf(from) + by, 0), all.length - 1)];
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}

function onward(from) {
  const all = rows();
  const rest = all.slice(all.indexOf(from) + 1);
  const next = rest.find(row => row.dataset.state === "open");
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const here = document.activeElement;
  const row = here.closest(".entry");
  if (here.tagName === "TEXTAREA") {
    if (event.key === "Escape" || event.key === "Enter") { event.preventDefault(); row.focus(); }
    return;
  }
  const act = {
    k: row => { decide(row, "keep"); onward(row); },
    d: row => { decide(row, "drop"); onward(row); },
    u: row => decide(row, "open"),
    e: row => row.querySelector("textarea:last-of-type, textarea").focus(),
    ArrowDown: row => step(row, 1), ArrowRight: row => step(row, 1),
    ArrowUp: row => step(row, -1), ArrowLeft: row => step(row, -1),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  if (row) act(row); else if (rows().length) (rows().find(row => row.dataset.state === "open") || rows()[0]).focus();
}

async function save() {
  const buttons = [at("save"), at("end")];
  buttons.forEach(button => { button.disabled = true; });
  try {
    await flush();
    const { entered, held, cards, tally } = await ask("save", {});
    const states = new Map(cards.flatMap(card => card.entries).map(item => [item.id, item.state]));
    for (const row of rows()) {
      row.dataset.state = states.get(row.dataset.id) || row.dataset.state;
      row.querySelectorAll("textarea").forEach(area => { area.disabled = row.dataset.state === "entered"; });
    }
    show(tally);
    showHeld(held);
    const count = entered.prompts + entered.dialogues;
    say(count ? `Saved: ${counted(entered.prompts, "prompt")} and ${counted(entered.dialogues, "dialogue")} entered in the file.` : "There was nothing new to save.");
    return true;
  } catch (error) {
    say("Not saved: " + error.message, true);
    return false;
  } finally {
    buttons.forEach(button => { button.disabled = false; });
  }
}

async function end() {
  if (!await save()) return;
  const saved = at("message").textContent;
  await ask("end", {}).catch(() => {});
  document.querySelectorAll("button, textarea").forEach(element => { element.disabled = true; });
  say(saved + " The program has ended; this page can be closed.");
}

(async function begin() {
  at("save").addEventListener("click", save);
  at("end").addEventListener("click", end);
  document.addEventListener("keydown", key);
  addEventListener("pagehide", leave);
  try {
    const state = await ask("state");
    document.title = `Curate ${state.ability} – Diptych`;
    at("ability").textContent = state.ability;
    at("file").textContent = state.file;
    show(state.tally);
    showHeld(state.held);
    const cards = state.cards.map(card);
    at("cards").replaceChildren(...(cards.length ? cards : [make("p", "nothing", "There is nothing to decide on.")]));
    const first = rows().find(row => row.dataset.state === "open");
    if (first) first.focus({ preventScroll: true });
  } catch (error) {
    say(error.message, true);
  }
})();
