"use strict";
// One item at a time. What was answered waits in the browser's storage until the server has said
// that it is kept; sent twice, it is one, for it carries an id of its own.

const COMPARE = [
  ["left", "left is better", ["1", "ArrowLeft"]],
  ["right", "right is better", ["2", "ArrowRight"]],
  ["neither", "neither", ["0", "ArrowDown"]],
];
const RATE = ["1", "2", "3", "4", "5"].map((n) => [n, n === "1" ? "1 bad" : n === "5" ? "5 good" : n, [n]]);
const ALWAYS = [["pass", "pass over", ["s"]], ["undo", "undo", ["z", "u"]]];
const RETRY_MS = 2000;

const at = (id) => document.getElementById(id);
const me = decodeURIComponent(location.hash.slice(1));
const waiting = `waiting:${me}`;
let item = null, verdicts = [], since = 0, busy = false;

function say(words) { at("state").textContent = words; }

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Authorization: `Bearer ${me}`, "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (answer.status === 503) throw new TypeError(await answer.text());
  return answer;
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
}

function show(told) {
  item = told.item;
  since = performance.now();
  at("labeller").textContent = told.labeller;
  at("progress").max = Math.max(told.of, 1);
  at("progress").value = told.done;
  at("count").textContent = `${told.done} of ${told.of}`;
  document.querySelector("main").hidden = !item;
  at("over").hidden = !!item;
  at("over").textContent = "Nothing is left to judge. Thank you!";
  if (!item) return;
  at("prompt").textContent = item.prompt;
  at("texts").replaceChildren(...item.texts.map((text) => {
    const box = document.createElement("pre");
    box.textContent = text;
    return box;
  }));
  verdicts = [...(item.texts.length > 1 ? COMPARE : RATE), ...ALWAYS];
  at("verdicts").replaceChildren(...verdicts.map(([name, words, keys]) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = keys[0];
    button.append(words, key);
    button.onclick = () => answer(name);
    return button;
  }));
  at("note").value = localStorage.getItem(`note:${me}:${item.id}`) || "";
}

async function persist(work) {
  for (;;) {
    try { return await work(); } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      say("the server does not answer; what you said is kept here and sent when it does");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function send() {
  const kept = localStorage.getItem(waiting);
  if (!kept) return;
  const told = JSON.parse(kept);
  const said = await ask("POST", "/api/judgements", told);
  if (!said.ok && said.status !== 409) return refuse(said);
  localStorage.removeItem(waiting);
  localStorage.removeItem(`note:${me}:${told.item}`);
  say(said.status === 409 ? "that one was judged on another page of yours" : "");
}

async function refuse(said) {
  document.querySelector("main").hidden = true;
  at("over").hidden = false;
  at("over").textContent = await said.text();
  throw new Error(at("over").textContent);
}

async function forward() {
  const said = await ask("GET", "/api/next");
  if (!said.ok) return refuse(said);
  show(await said.json());
}

async function undo() {
  const said = await ask("POST", "/api/undo");
  if (said.status === 404) return say("there is nothing to undo");
  if (!said.ok) return refuse(said);
  show(await said.json());
  say("undone");
}

async function answer(verdict) {
  if (busy || (!item && verdict !== "undo")) return;
  busy = true;
  try {
    if (verdict === "undo") return await persist(undo);
    localStorage.setItem(waiting, JSON.stringify({
      id: newId(), item: item.id, verdict, note: at("note").value,
      seconds: (performance.now() - since) / 1000,
    }));
    await persist(send);
    await persist(forward);
  } finally { busy = false; }
}

at("note").oninput = () => localStorage.setItem(`note:${me}:${item.id}`, at("note").value);
document.onkeydown = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (document.activeElement === at("note")) {
    if (event.key === "Escape") at("note").blur();
    return;
  }
  if (event.key === "n") { event.preventDefault(); at("note").focus(); return; }
  const chosen = [...verdicts, ...ALWAYS].find(([, , keys]) => keys.includes(event.key));
  if (chosen) { event.preventDefault(); answer(chosen[0]); }
};

persist(send).then(() => persist(forward));
