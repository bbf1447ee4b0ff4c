/** The weights of picture and words as a slider: left the picture alone, right the words alone. */

const PAUSE_MS = 150; // of a drag, before it is asked again

export class Balance {
  #timer = null;

  /** `onWeight` is called with the picture's weight, undefined for the model's own. */
  constructor(group, onWeight) {
    this.group = group;
    this.slider = group.querySelector("#weight");
    this.picture = group.querySelector("#picture-share");
    this.words = group.querySelector("#words-share");
    this.own = group.querySelector("#own");
    this.slider.addEventListener("input", () => {
      this.#paint();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        this.#timer = null;
        onWeight(1 - this.slider.valueAsNumber / 100);
      }, PAUSE_MS);
    });
    this.own.addEventListener("click", () => {
      this.forget();
      this.slider.focus();
      onWeight(undefined);
    });
  }

  /** Show the weights of an answer; null hides the slider. `own`: whether the model chose them. */
  show(weights, own) {
    this.group.hidden = weights === null;
    this.own.disabled = own;
    if (weights === null || this.#timer !== null) return; // it is being dragged on
    this.slider.value = Math.round(100 * weights.text);
    this.#paint();
  }

  /** Ask nothing more of a drag. */
  forget() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  #paint() {
    const words = this.slider.valueAsNumber;
    this.picture.textContent = `${100 - words} %`;
    this.words.textContent = `${words} %`;
    this.slider.setAttribute("aria-valuetext", `${100 - words} % picture, ${words} % words`);
  }
}
