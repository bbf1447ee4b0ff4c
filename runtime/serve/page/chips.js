/** Frequent changes as buttons that stay pressed. */

export class Chips {
  constructor(group, names, onChange) {
    this.group = group;
    this.buttons = names.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => {
        this.#press(button, button.getAttribute("aria-pressed") !== "true");
        onChange();
      });
      return button;
    });
    group.append(...this.buttons);
    this.value = [];
  }

  /** The chips that are pressed. */
  get value() {
    const pressed = this.buttons.filter((one) => one.getAttribute("aria-pressed") === "true");
    return pressed.map((one) => one.textContent);
  }

  set value(names) {
    for (const one of this.buttons) this.#press(one, names.includes(one.textContent));
  }

  #press(button, pressed) {
    button.setAttribute("aria-pressed", String(pressed));
  }
}
