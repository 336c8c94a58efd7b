import { fault } from "@ultracloud/base";

/** Callers of one VM that may wait for each other; a control plane needs two or three. */
const waitersMax = 16;

/** Runs pieces of work one after the other. */
export class Lock {
  #tail: Promise<unknown> = Promise.resolve();
  #waiting = 0;

  /** Runs `work` when everything before it has ended, whatever became of that. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#waiting >= waitersMax) {
      throw fault("resource_exhausted", "vm_busy", `Cannot queue more than ${waitersMax} calls for one VM`);
    }
    this.#waiting++;
    const turn = this.#tail.then(work, work);
    this.#tail = turn.catch(() => {});
    try {
      return await turn;
    } finally {
      this.#waiting--;
    }
  }
}
