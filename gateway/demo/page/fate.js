// What became of one message, drawn: one to four bars, and its end in words.

import { inWords, words } from "./words.js";

export const RUNGS = ["accepted", "written", "reached", "consumed"];

/** A new element with a class and, as text and never as markup, its content. */
export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function duration(ms) {
  return ms < 1000 ? `${Math.ceil(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export class Fate {
  #steps = RUNGS.map(() => document.createElement("i"));
  #words = element("span", "");
  #began = performance.now();
  #rung = -1;
  #say = () => words("waiting");

  constructor() {
    this.element = element("div", "fate");
    const ladder = element("span", "ladder");
    ladder.setAttribute("aria-hidden", "true");
    ladder.append(...this.#steps);
    this.element.append(ladder, this.#words);
    inWords(this.element, () => (this.#words.textContent = this.#say()));
  }

  #tell(say) {
    this.#say = say;
    this.#words.textContent = say();
  }

  climb(rung) {
    const reached = RUNGS.indexOf(rung);
    if (reached <= this.#rung || this.element.dataset.fate) return;
    this.#rung = reached;
    this.#steps.forEach((step, index) => step.classList.toggle("climbed", index <= reached));
    this.#tell(() => words(rung));
  }

  settle(rung) {
    this.climb(rung ?? RUNGS.at(-1));
    this.element.dataset.fate = "settled";
    const time = duration(performance.now() - this.#began);
    const settled = RUNGS[this.#rung];
    this.#tell(() => words("within", words(settled), time));
  }

  /** `error` is what `send` rejected with. */
  fail(error) {
    this.element.dataset.fate = "failed";
    this.#tell(() => words(error.name) ?? words("refused", error.reason || error.message));
  }
}
