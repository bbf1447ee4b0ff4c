/** The steps of one visit, in memory alone; the browser's history holds their numbers. */

export class Steps {
  #steps = [];
  #at = 0;
  #visit = "";
  #first;

  /** Begin with a step; `onArrive` is called after the browser went to another. */
  constructor(first, onArrive) {
    history.scrollRestoration = "manual";
    this.#first = first;
    this.begin();
    addEventListener("popstate", ({ state }) => {
      if (state?.visit === this.#visit && state.at < this.#steps.length) {
        this.#at = state.at;
      } else {
        this.begin(); // a number of a visit that was forgotten
      }
      onArrive();
    });
  }

  get current() {
    return this.#steps[this.#at];
  }

  get hasBack() {
    return this.#at > 0;
  }

  get hasForward() {
    return this.#at < this.#steps.length - 1;
  }

  /** Forget all steps but the first one, and the pictures that they hold. */
  begin() {
    const old = this.#steps;
    this.#visit = Math.random().toString(36).slice(2);
    this.#steps = [{ ...this.#first }];
    this.#at = 0;
    history.replaceState(this.#number(), "");
    this.#release(old);
  }

  /** Go on to a new step; those that lay ahead are forgotten. */
  push(step) {
    const ahead = this.#steps.splice(this.#at + 1);
    this.#steps.push(step);
    this.#at += 1;
    history.pushState(this.#number(), "");
    this.#release(ahead);
  }

  /** Put a step in the place of the current one. */
  replace(step) {
    this.#steps[this.#at] = step;
  }

  #number() {
    return { visit: this.#visit, at: this.#at };
  }

  #release(dropped) {
    const kept = new Set(this.#steps.map((step) => step.reference));
    const gone = new Set(dropped.map((step) => step.reference).filter((r) => r && !kept.has(r)));
    for (const reference of gone) reference.release?.();
  }
}
