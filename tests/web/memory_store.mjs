/** A store in memory, whose writes take their time and can be cut off. */

import assert from "node:assert/strict";

import { turn } from "./world.mjs";

/** A store whose writes last until `world` completes them. */
export class MemoryStore {
  constructor(world) {
    this.world = world;
    this.state = null;
    this.messages = new Map();
    this.pending = [];
    this.isOpen = false;
    this.wasCleared = false;
    this.crashes = 0;
  }

  async open() {
    assert.ok(!this.isOpen);
    this.isOpen = true;
    const { crashes } = this;
    await turn();
    if (this.crashes !== crashes) await new Promise(() => {}); // the page is gone
    if (!this.state) return null;
    return { ...this.state, messages: [...this.messages.values()].sort((one, other) => one.seq - other.seq) };
  }

  save({ state, appended, replace }) {
    assert.ok(this.isOpen && !this.pending.length, "one save at a time");
    return new Promise((resolve) => {
      const apply = () => {
        if (replace) this.messages.clear();
        for (const { seq, text: isText, data } of appended) this.messages.set(seq, { seq, text: isText, data });
        for (const seq of [...this.messages.keys()]) if (seq <= state.settled) this.messages.delete(seq);
        this.state = { ...state };
      };
      this.pending.push({ apply, resolve });
      this.world.tasks.push(() => this.complete());
    });
  }

  async clear() {
    this.state = null;
    this.messages.clear();
    this.wasCleared = true;
  }

  close() {
    this.isOpen = false;
  }

  /** The write under way is done. */
  complete() {
    const write = this.pending.shift();
    write?.apply();
    write?.resolve();
  }

  /** The page is gone: a write under way was made, or was not. */
  crash(completes) {
    this.crashes += 1;
    if (completes) this.pending[0]?.apply();
    this.pending = [];
    this.isOpen = false;
  }
}
