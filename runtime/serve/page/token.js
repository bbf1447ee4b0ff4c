/** The token of this screen: typed once by its operator, kept until the browser closes. */

const KEY = "cir-rt token";

export class Token {
  #asking = null;

  constructor(dialog) {
    this.dialog = dialog;
    this.told = dialog.querySelector("#token-told");
    this.field = dialog.querySelector("#token-value");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
  }

  get value() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  /** Ask for another one than was sent; all who ask meanwhile wait for the same. */
  async ask(sent, problem) {
    if (sent !== this.value) return; // another call has asked already
    this.#asking ??= this.#typed(sent && `That one was refused: ${problem.message}`);
    await this.#asking;
  }

  #typed(why) {
    this.told.textContent = why || "Its operator types it once.";
    this.field.value = "";
    return new Promise((resolve) => {
      const closed = () => {
        if (!this.field.value) return this.dialog.showModal();
        this.dialog.removeEventListener("close", closed);
        sessionStorage.setItem(KEY, this.field.value.trim());
        this.field.value = "";
        this.#asking = null;
        resolve();
      };
      this.dialog.addEventListener("close", closed);
      this.dialog.showModal();
    });
  }
}
