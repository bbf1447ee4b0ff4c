/** The calls of the page to its server; what is refused becomes a Problem. */

const LONGEST_WAIT_S = 10; // a longer Retry-After is told instead of waited for

/** What the server refused, or that it could not be reached (kind "offline"). */
export class Problem extends Error {
  constructor({ type = "", title = "The server failed", detail = "" }, retryS = null) {
    super(detail);
    this.kind = type.split(":").pop();
    this.title = title;
    this.retryS = retryS;
  }
}

export class Server {
  /** `token`: a Token, or null where none is asked for; `onWait` hears how long it waits. */
  constructor(token, onWait) {
    this.token = token;
    this.onWait = onWait;
  }

  /** Return the answer to a search, with `round_ms`, the time of the last try. */
  async search(fields, signal) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    const asked = { method: "POST", body, signal };
    const { response, began } = await this.#ask("/v1/search", asked);
    const answer = await response.json();
    return { ...answer, round_ms: performance.now() - began };
  }

  /** Return a page of the collection; `cursor` is `next` of the one before. */
  async items(cursor, limit) {
    const query = new URLSearchParams({ limit, ...(cursor && { cursor }) });
    return (await this.#ask(`/v1/items?${query}`)).response.json();
  }

  /** Return a URL of a thumbnail, and what to call when the picture was loaded. */
  async thumbnail(id) {
    const path = `/v1/items/${encodeURIComponent(id)}/image`;
    if (!this.token) return { url: path, done: () => {} };
    const url = URL.createObjectURL(await (await this.#ask(path)).response.blob());
    return { url, done: () => URL.revokeObjectURL(url) };
  }

  /** Tell whether the server answers. */
  async ready() {
    try {
      return (await fetch("/ready", { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }

  async #ask(path, options = {}) {
    for (let patient = true; ; ) {
      const sent = this.token?.value;
      const headers = this.token ? { Authorization: `Bearer ${sent}` } : {};
      const began = performance.now();
      const response = await reached(path, { ...options, headers });
      if (response.ok) return { response, began };
      const problem = await problemOf(response);
      if (this.token && ["unauthorized", "forbidden"].includes(problem.kind)) {
        await this.token.ask(sent, problem);
      } else if (patient && problem.retryS !== null && problem.retryS <= LONGEST_WAIT_S) {
        patient = false;
        this.onWait(problem.retryS);
        await pause(problem.retryS, options.signal);
      } else {
        throw problem;
      }
    }
  }
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ type: "offline", title: "No connection to the server" });
  }
}

async function problemOf(response) {
  const wait = response.headers.get("Retry-After");
  const retryS = [429, 503].includes(response.status) ? Math.max(1, Number(wait) || 1) : null;
  try {
    return new Problem(await response.json(), retryS);
  } catch {
    return new Problem({ detail: `It answered with status ${response.status}.` }, retryS);
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
