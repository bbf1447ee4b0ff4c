/** Whether the server can be reached; once it cannot, it is looked for until it is "reachable". */

const EVERY_MS = 2000;

export class Connection {
  #timer = null;
  #again = null;

  constructor(banner, server) {
    this.banner = banner;
    this.server = server;
    addEventListener("offline", () => this.#look()); // the server may stand on this machine
    addEventListener("online", () => this.#look());
  }

  /** Say that the server cannot be reached; `again` is called when it can. */
  lost(again = this.#again) {
    this.#again = again;
    this.banner.textContent = "No connection to the server. It goes on as soon as there is one.";
    this.banner.hidden = false;
    this.#timer ??= setInterval(() => this.#look(), EVERY_MS);
  }

  /** Say nothing, and repeat nothing later. */
  forget() {
    this.#again = null;
  }

  async #look() {
    if (!(await this.server.ready())) return this.lost();
    clearInterval(this.#timer);
    this.#timer = null;
    this.banner.hidden = true;
    const again = this.#again;
    this.#again = null;
    dispatchEvent(new Event("reachable"));
    again?.();
  }
}
