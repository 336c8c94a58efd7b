import type { Platform } from "@ultracloud/platform";
import { type Placement, placementPrefix, type StoredInstance, versionKey } from "./kinds.ts";

/** How often changes of other replicas are looked for; those of this one are told. */
const pollMs = 250;
/** An agent may watch under an older key for a moment; more of them is a mistake. */
export const watchersMax = 8192;

export interface Assignments {
  /** How often they have changed. */
  readonly version: number;
  /** By node. */
  readonly byNode: ReadonlyMap<string, readonly { readonly service: string; readonly instance: StoredInstance }[]>;
}

/** The assignments as they stand, read once for all who ask; not older than `pollMs` while somebody waits. */
export class AssignmentFeed {
  readonly #platform: Platform;
  #current: Assignments | undefined;
  #reading: Promise<Assignments> | undefined;
  #wake = new Set<() => void>();

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** As the store has them; those who ask at one time share the answer. */
  async read(): Promise<Assignments> {
    this.#reading ??= this.#load().finally(() => this.#reading = undefined);
    return await this.#reading;
  }

  async #load(): Promise<Assignments> {
    return await this.#platform.transact(async (tx) => {
      const version = await tx.row<number>(versionKey) ?? 0;
      if (this.#current?.version === version) return this.#current;
      const byNode = new Map<string, { service: string; instance: StoredInstance }[]>();
      for (const { key, value } of await tx.rows<Placement>(placementPrefix)) {
        const service = key.slice(placementPrefix.length);
        for (const instance of value.instances) {
          const own = byNode.get(instance.node) ?? [];
          byNode.set(instance.node, own);
          own.push({ service, instance });
        }
      }
      return this.#current = { version, byNode };
    });
  }

  /** Something was committed here. */
  poke(): void {
    for (const wake of this.#wake) wake();
  }

  /** Waits for `poke()`, or until it is time to look by itself. */
  async pause(signal: AbortSignal): Promise<void> {
    let wake = () => {};
    const woken = new Promise<void>((resolve) => wake = resolve);
    this.#wake.add(wake);
    const timer = new AbortController();
    const sleep = this.#platform.clock.sleep(pollMs, AbortSignal.any([timer.signal, signal])).catch(() => {});
    await Promise.race([woken, sleep]);
    timer.abort();
    this.#wake.delete(wake);
  }

  get watchers(): number {
    return this.#wake.size;
  }
}
