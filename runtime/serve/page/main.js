/** The page: puts its parts together, and goes from step to step. */

import { Balance } from "./balance.js";
import { Camera } from "./camera.js";
import { Cards, labelOf } from "./cards.js";
import { Chips } from "./chips.js";
import { Connection } from "./connection.js";
import { Gallery } from "./gallery.js";
import { Idle } from "./idle.js";
import { Notice } from "./notice.js";
import { photoOf } from "./photo.js";
import { COUNT, Search, wordsOf } from "./search.js";
import { Server } from "./server.js";
import { Speech } from "./speech.js";
import { Steps } from "./steps.js";
import { Token } from "./token.js";
import { View } from "./view.js";

const START = Object.freeze({ reference: null, chips: [], words: "", answer: null, scroll: 0 });
const SKELETONS_MS = 250; // an answer that comes earlier takes the place of the one before

const $ = (id) => document.getElementById(id);
const settings = await (await fetch("/page/settings.json")).json();

const notice = new Notice($("problem"), $("status"));
const token = settings.token ? new Token($("token")) : null;
const server = new Server(token, (s) => notice.say(`Busy. It is tried again in ${s} s.`));
const connection = new Connection($("banner"), server);
const search = new Search(server);
const collection = new Cards($("browse"), server, goOnFrom);
const gallery = new Gallery(collection, $("more"), server);
const results = new Cards($("results"), server, goOnFrom);
const chips = new Chips($("chips"), settings.chips, () => say());
const balance = new Balance($("balance"), weigh);
const camera = new Camera($("camera"), async (video) => void goOnWith(await photoOf(video)));
const view = new View({ collection, results, chips, balance, notice, server });
const steps = new Steps(START, arrive);
const speech = settings.speech ? new Speech($("speak"), heard, unheard) : null;

/** Look for a wish; its answer becomes a step, or takes the place of the one that it refines. */
async function seek(wish, refines = false) {
  const { scrollTop } = $("stage");
  notice.clear();
  connection.forget();
  const slow = setTimeout(() => !refines && view.expect(COUNT), SKELETONS_MS);
  view.busy(true);
  try {
    const answer = await search.ask(wish);
    if (!answer) return; // another search, or another step, took its place
    const own = wish.weight === undefined ? answer.weights : wish.own;
    steps.current.scroll = scrollTop;
    steps[refines ? "replace" : "push"]({ ...wish, answer, own, scroll: 0 });
    clearTimeout(slow);
    view.show(steps, { arrived: !refines });
  } catch (problem) {
    view.show(steps, { typed: true });
    failed(problem, () => seek(wish, refines));
  } finally {
    clearTimeout(slow);
  }
}

/** Open the collection, once. */
async function browse() {
  try {
    const count = await gallery.open();
    if (!count) view.nothingHere();
  } catch (problem) {
    failed(problem, browse);
  }
}

function failed(problem, again) {
  if (problem.kind === "offline") connection.lost(again);
  else notice.refused(problem, again);
}

/** Search for the words that stand there, from the step's own reference. */
function say() {
  const wish = { reference: steps.current.reference, chips: chips.value, words: typed() };
  if (wish.reference || wordsOf(wish)) seek(wish);
  else $("words").focus();
}

function weigh(weight) {
  const { reference, chips, words, own } = steps.current;
  seek({ reference, chips, words, weight, own }, true);
}

function goOnFrom(item) {
  seek({ reference: { id: item.id, label: labelOf(item) }, chips: [], words: "" });
}

function goOnWith(photo) {
  return seek({ reference: photo, chips: [], words: "" });
}

/** Show the step that the browser went to. */
function arrive() {
  search.cancel();
  balance.forget();
  notice.clear();
  connection.forget();
  view.show(steps, { arrived: true });
}

function startOver() {
  search.cancel();
  balance.forget();
  speech?.cancel();
  camera.close();
  for (const id of ["file", "capture"]) $(id).value = "";
  steps.begin();
  arrive();
}

function typed() {
  return $("words").value.trim();
}

function isDirty() {
  return steps.hasBack || steps.hasForward || typed() !== "" || camera.isOpen;
}

function heard(words) {
  $("words").value = words;
  say();
}

function unheard(error) {
  notice.refused({ title: "Nothing was heard", message: `The browser says: ${error}.` }, () =>
    $("speak").click(),
  );
}

function leave(go) {
  steps.current.scroll = $("stage").scrollTop;
  go();
}

$("dock").addEventListener("submit", (event) => {
  event.preventDefault();
  say();
});
$("back").addEventListener("click", () => leave(() => history.back()));
$("forward").addEventListener("click", () => leave(() => history.forward()));
$("over").addEventListener("click", startOver);
$("more").addEventListener("click", () => gallery.goOn().catch((problem) => failed(problem, browse)));
$("upload").addEventListener("click", () => $("file").click());
$("shoot").addEventListener("click", () => (Camera.isLent ? camera.open() : $("capture").click()));
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // an address with a # would be a step of its own
  $("words").focus();
});
$("words").addEventListener("input", () => view.offer(steps, typed() !== ""));
for (const id of ["file", "capture"]) {
  $(id).addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (file) await goOnWith(await photoOf(file));
    target.value = "";
  });
}

$("words").maxLength = settings.text_characters;
$("shoot").hidden = !Camera.isLent && !matchMedia("(pointer: coarse)").matches;
new Idle($("idle"), settings.idle_s, isDirty, startOver);
view.show(steps, {});
await browse();
