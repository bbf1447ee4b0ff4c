/** A grid of pictures, each a button. */

const LABELS = ["title", "name"]; // of the metadata, the first that is there

export class Cards {
  #cards = new Map(); // id -> list item

  /** `onPick` is called with the item whose card was touched. */
  constructor(list, server, onPick) {
    this.list = list;
    this.server = server;
    this.onPick = onPick;
  }

  get isEmpty() {
    return this.#cards.size === 0;
  }

  /** Show these items alone; those that were shown already keep their pictures. */
  show(items) {
    const old = this.#cards;
    this.#cards = new Map(items.map((item) => [item.id, old.get(item.id) ?? this.#card(item)]));
    this.list.replaceChildren(...this.#cards.values());
  }

  /** Show these items behind the others. */
  append(items) {
    for (const item of items) this.#cards.set(item.id, this.#card(item));
    this.list.replaceChildren(...this.#cards.values());
  }

  /** Show places of pictures to come. */
  expect(count) {
    this.#cards.clear();
    const places = Array.from({ length: count }, () => {
      const place = document.createElement("li");
      place.className = "skeleton";
      return place;
    });
    this.list.replaceChildren(...places);
  }

  clear() {
    this.show([]);
  }

  #card(item) {
    const place = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "card";
    button.dataset.id = item.id;
    const label = labelOf(item);
    button.append(picture(item.id, label ? "" : `Picture ${item.id}`, this.server));
    if (label) {
      const shown = document.createElement("span");
      shown.textContent = label;
      button.append(shown);
    }
    button.addEventListener("click", () => this.onPick(item));
    place.append(button);
    return place;
  }
}

/** Return what the operator calls an item; undefined where no metadata says it. */
export function labelOf({ metadata }) {
  return LABELS.map((name) => metadata?.[name]).find((value) => typeof value === "string");
}

/** Return the image of a picture of the gallery. */
export function picture(id, alt, server) {
  const image = document.createElement("img");
  image.alt = alt;
  image.loading = server.token ? "eager" : "lazy"; // with a token it was fetched already
  image.decoding = "async";
  image.draggable = false;
  const gone = () => {
    image.classList.add("gone");
    addEventListener("reachable", load, { once: true });
  };
  const load = async () => {
    try {
      const { url, done } = await server.thumbnail(id);
      image.onload = done;
      image.onerror = () => gone(done());
      image.classList.remove("gone");
      image.src = url;
    } catch {
      gone();
    }
  };
  load();
  return image;
}
