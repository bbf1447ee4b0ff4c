/** One search at a time: a later one, or a way back, overtakes the one before. */

export const COUNT = 24; // pictures asked for

export class Search {
  #running = null;

  constructor(server) {
    this.server = server;
  }

  /** Drop the search that is under way. */
  cancel() {
    this.#running?.abort();
    this.#running = null;
  }

  /** Return the answer to a wish; null where it was overtaken. Raises Problem. */
  async ask(wish) {
    this.cancel();
    const running = (this.#running = new AbortController());
    try {
      const answer = await this.server.search(fieldsOf(wish), running.signal);
      return running === this.#running ? answer : null;
    } catch (error) {
      if (running !== this.#running) return null;
      throw error;
    }
  }
}

/** Return the words of a wish: its chips, then what was typed. */
export function wordsOf({ chips, words }) {
  return [...chips, words].filter(Boolean).join(" and ");
}

function fieldsOf(wish) {
  const { reference, weight } = wish;
  const text = wordsOf(wish);
  return {
    k: COUNT,
    ...(reference?.id && { id: reference.id }),
    ...(reference?.blob && { image: reference.blob }),
    ...(text && { text }),
    ...(weight !== undefined && { weight }),
  };
}
