import type { JsonRpc } from "./json_rpc.ts";

/** A lock asked for, held or waited for. */
class Lock implements AsyncDisposable {
  readonly name: string;
  held = false;
  readonly #steal: () => Promise<void>;
  readonly #release: () => Promise<void>;

  constructor(name: string, o: { readonly steal: () => Promise<void>; readonly release: () => Promise<void> }) {
    this.name = name;
    this.#steal = o.steal;
    this.#release = o.release;
  }

  steal(): Promise<void> {
    return this.#steal();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#release();
  }
}

/** The locks of one client: asked for on every connection, lost with it. */
export class Locks {
  readonly #locks = new Map<string, Lock>();
  readonly #connection: () => JsonRpc | undefined;
  readonly #changed: () => void;
  /** Requests about locks go one after the other: the server refuses to unlock what is not asked for, and the reverse. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(connection: () => JsonRpc | undefined, changed: () => void) {
    this.#connection = connection;
    this.#changed = changed;
  }

  add(name: string): Lock {
    if (this.#locks.has(name)) throw new TypeError(`Cannot ask twice for lock ${name}: a connection has it once`);
    const lock = new Lock(name, {
      steal: () =>
        this.#inTurn(async (rpc) => {
          await rpc.request("unlock", [name]);
          await rpc.request("steal", [name]);
          this.#set(name, rpc === this.#connection());
        }),
      release: async () => {
        this.#locks.delete(name);
        // A connection that is gone has let go of it.
        await this.#inTurn((rpc) => rpc.request("unlock", [name])).catch(() => {});
      },
    });
    this.#locks.set(name, lock);
    void this.#inTurn((rpc) => this.#ask(rpc, name)).catch(() => {});
    return lock;
  }

  /** Asks for all locks on a connection that nobody else uses yet. */
  async ask(rpc: JsonRpc): Promise<void> {
    for (const name of [...this.#locks.keys()]) await this.#ask(rpc, name);
  }

  notified(method: string, params: readonly unknown[]): void {
    const name = String(params[0]);
    if (method === "locked") this.#set(name, true);
    if (method !== "stolen") return;
    this.#set(name, false);
    // Whoever is robbed is out of the server's queue, yet must unlock before it may queue again.
    void this.#inTurn(async (rpc) => {
      await rpc.request("unlock", [name]);
      if (this.#locks.has(name)) await this.#ask(rpc, name);
    }).catch(() => {});
  }

  lost(): void {
    for (const lock of this.#locks.values()) lock.held = false;
  }

  #inTurn(work: (rpc: JsonRpc) => Promise<unknown>): Promise<void> {
    const turn = this.#tail.then(async () => {
      const rpc = this.#connection();
      if (rpc) await work(rpc);
    });
    this.#tail = turn.catch(() => {});
    return turn;
  }

  async #ask(rpc: JsonRpc, name: string): Promise<void> {
    const { locked } = await rpc.request<{ locked?: boolean }>("lock", [name]);
    // "locked" may have been told in the meantime.
    if (locked) this.#set(name, true);
  }

  #set(name: string, held: boolean): void {
    const lock = this.#locks.get(name);
    if (!lock || lock.held === held) return;
    lock.held = held;
    this.#changed();
  }
}
