/** The end of a visit: without a touch it is told, then all is forgotten. */

const WARNING_S = 20; // WCAG 2.2.1: at least as long to say that one is still there
const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "touchmove", "input"];

export class Idle {
  #seen = Date.now();

  /** `isDirty` tells whether there is anything to forget, `onOver` forgets it. */
  constructor(dialog, seconds, isDirty, onOver) {
    this.dialog = dialog;
    this.count = dialog.querySelector("#idle-count");
    if (!seconds) return;
    for (const sign of SIGNS) {
      // Under the dialog lie pictures: it stays until a touch or key is over, and takes it whole.
      const seen = () => dialog.open || this.#stay();
      addEventListener(sign, seen, { capture: true, passive: true });
    }
    for (const sign of ["click", "keyup"]) addEventListener(sign, () => this.#stay());
    dialog.addEventListener("close", () => this.#stay());
    setInterval(() => {
      const left = Math.ceil(seconds - (Date.now() - this.#seen) / 1000);
      if (!isDirty()) return this.#stay();
      if (left <= 0) {
        this.#stay();
        onOver();
      } else if (left <= WARNING_S) {
        this.count.textContent = `${left} s`;
        if (!dialog.open) dialog.showModal();
      }
    }, 1000);
  }

  #stay() {
    this.#seen = Date.now();
    if (this.dialog.open) this.dialog.close();
  }
}
