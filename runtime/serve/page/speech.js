/** Words by microphone, where the operator allows it and the browser can. */

const Recognition = globalThis.SpeechRecognition ?? globalThis.webkitSpeechRecognition;

export class Speech {
  #heard = null;

  /** `onWords` is called with what was said, `onProblem` with why nothing was. */
  constructor(button, onWords, onProblem) {
    button.hidden = !Recognition;
    button.addEventListener("click", () => {
      if (this.#heard) return this.#heard.stop();
      const heard = (this.#heard = new Recognition());
      heard.lang = document.documentElement.lang;
      heard.onresult = ({ results }) => onWords(results[0][0].transcript.trim());
      heard.onerror = ({ error }) => onProblem(error);
      heard.onend = () => {
        this.#heard = null;
        button.setAttribute("aria-pressed", "false");
      };
      button.setAttribute("aria-pressed", "true");
      heard.start();
    });
  }

  /** Listen no longer, and hear nothing of what was said. */
  cancel() {
    this.#heard?.abort();
  }
}
