/** What waits for the state machine, which does one thing at a time. */
export class MachineQueue {
  readonly #tasks: ((release: () => void) => void)[] = [];
  #busy = false;
  #stopped = false;

  /** Runs the task in its turn; the next one comes after it has called `release`. */
  add(task: (release: () => void) => void): void {
    this.#tasks.push(task);
    this.#next();
  }

  stop(): void {
    this.#stopped = true;
  }

  #next(): void {
    if (this.#busy || this.#stopped) return;
    const task = this.#tasks.shift();
    if (!task) return;
    this.#busy = true;
    task(() => {
      this.#busy = false;
      this.#next();
    });
  }
}
