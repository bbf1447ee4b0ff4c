/** What is told beside the pictures: a refusal in words, and what only a screen reader says. */

const TITLES = {
  picture: "That picture cannot be used",
  text: "Those words cannot be used",
  "too-large": "That picture is too large",
  "too-often": "That was a lot at once",
  busy: "Very busy right now",
  "unknown-id": "That picture is no longer here",
};

const LASTING = ["picture", "text", "field", "too-large", "unknown-id"]; // refused again

export class Notice {
  constructor(panel, status) {
    this.panel = panel;
    this.status = status;
  }

  /** Tell a screen reader. */
  say(text) {
    this.status.textContent = text;
  }

  /** Show what was refused; `again` repeats it. */
  refused(problem, again) {
    const title = document.createElement("strong");
    title.textContent = TITLES[problem.kind] ?? problem.title ?? "This page failed";
    const detail = document.createElement("p");
    detail.textContent = problem.message;
    const choices = document.createElement("div");
    choices.className = "choices";
    if (!LASTING.includes(problem.kind)) choices.append(this.#button("Try again", again));
    choices.append(this.#button("Close", () => {}));
    this.panel.replaceChildren(title, detail, choices);
    this.panel.scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.panel.replaceChildren();
  }

  #button(label, then) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet small";
    button.textContent = label;
    button.addEventListener("click", () => {
      this.clear();
      then();
    });
    return button;
  }
}
