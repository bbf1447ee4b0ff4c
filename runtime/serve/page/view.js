/** What a step looks like: its reference, its words, its weights and its pictures. */

import { picture } from "./cards.js";
import { wordsOf } from "./search.js";

const $ = (id) => document.getElementById(id);
const BEGIN = "Pick what comes close, then say what to change.";
const HOW = "Tap a picture, take one, upload one, or describe what you have in mind.";

export class View {
  #reference = null;

  constructor(parts) {
    Object.assign(this, parts);
  }

  /**
   * Show the current step. `arrived`: it was not shown before, so that its heading is read and its
   * scroll comes back; `typed`: what was typed since stays.
   */
  show(steps, { arrived = false, typed = false }) {
    const step = steps.current;
    this.busy(false);
    $("collection").hidden = Boolean(step.answer);
    $("results").hidden = !step.answer;
    this.#showReference(step.reference);
    if (!typed) {
      this.chips.value = step.chips;
      $("words").value = step.words;
    }
    if (step.answer) this.#showAnswer(step);
    else this.#showStart();
    $("back").disabled = !steps.hasBack;
    $("forward").disabled = !steps.hasForward;
    this.offer(steps, $("words").value !== "");
    if (!arrived) return;
    $("heading").focus({ preventScroll: true });
    $("stage").scrollTop = step.scroll;
  }

  /** Show that an answer is on its way. */
  busy(busy) {
    $("stage").setAttribute("aria-busy", String(busy));
  }

  /** Show places for pictures to come. */
  expect(count) {
    $("collection").hidden = true;
    $("results").hidden = false;
    this.results.expect(count);
  }

  /** Offer to start over where there is anything to leave. */
  offer(steps, typed) {
    $("over").disabled = !(steps.hasBack || steps.hasForward || typed);
  }

  /** Say that the collection is empty. */
  nothingHere() {
    $("told").textContent = "There are no pictures here yet.";
  }

  #showStart() {
    this.results.clear();
    this.balance.show(null, true);
    this.#title(BEGIN, HOW);
    this.notice.say("");
  }

  #showAnswer(step) {
    const { hits, weights, timing_ms: timing, round_ms: round } = step.answer;
    const words = wordsOf(step);
    this.results.show(hits);
    this.balance.show(step.reference && words ? weights : null, step.weight === undefined);
    const title = words ? `“${words}”` : "More like this";
    const count = hits.length === 1 ? "1 picture" : `${hits.length} pictures`;
    const times = `${shown(timing.total)} on the server, ${shown(round)} in all`;
    this.#title(hits.length ? title : "Nothing fits", `${count} · ${times}`);
    if (!hits.length) $("told").textContent = step.answer.empty_because ?? count;
    this.notice.say(`${count} for ${title}`);
  }

  #title(title, told) {
    $("heading").textContent = title;
    $("told").textContent = told;
    document.title = title;
  }

  #showReference(reference) {
    $("reference").hidden = $("chips").hidden = !reference;
    $("sources").hidden = Boolean(reference);
    $("asked").textContent = reference ? "What should change?" : "What are you looking for?";
    if (reference === this.#reference) return;
    this.#reference = reference;
    $("reference").replaceChildren(...(reference ? [this.#pictureOf(reference)] : []));
  }

  #pictureOf(reference) {
    if (reference.id) return picture(reference.id, reference.label ?? "The picture", this.server);
    const image = document.createElement("img");
    image.alt = "Your picture";
    image.src = reference.url;
    return image;
  }
}

function shown(ms) {
  return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}
