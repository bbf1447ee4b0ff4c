/** The collection, a page at a time. */

const PAGE = 48; // fills rows of 2, 3 and 4
const PLACES = 16;

export class Gallery {
  #next = null;

  constructor(cards, more, server) {
    this.cards = cards;
    this.more = more;
    this.server = server;
  }

  /** Show the first page. Raises Problem. */
  async open() {
    this.cards.expect(PLACES);
    try {
      return await this.#page();
    } catch (error) {
      this.cards.clear();
      throw error;
    }
  }

  /** Show one page more, and look at its first picture. Raises Problem. */
  async goOn() {
    const shown = this.cards.list.childElementCount;
    await this.#page(this.#next);
    this.cards.list.children[shown]?.querySelector("button").focus();
  }

  /** Return the number of pictures in the collection. */
  async #page(cursor) {
    const page = await this.server.items(cursor, PAGE);
    if (cursor) this.cards.append(page.items);
    else this.cards.show(page.items);
    this.#next = page.next;
    this.more.hidden = !page.next;
    return page.pictures;
  }
}
