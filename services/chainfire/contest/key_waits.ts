import { keyWaitsCountMax } from "../domain/limits.ts";
import { namespaceName } from "../domain/namespaces.ts";
import type { KvEvent } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { StateListener } from "../state/machine.ts";

/**
 * Calls that wait for keys to change. A wait is armed in the same turn of the event loop in which the state was looked
 * at, so nothing falls between; it ends when a key changes, when the state is replaced, or with the call.
 */
export class KeyWaits implements StateListener {
  /** By key, one character a byte. */
  readonly #byKey = new Map<string, Set<() => void>>();
  readonly #byPrefix = new Map<() => void, string>();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Resolves once one of the keys changes. */
  forKeys(keys: readonly Uint8Array[], signal: AbortSignal): Promise<void> {
    const names = keys.map(namespaceName);
    return this.#wait(signal, (wake) => {
      for (const name of names) {
        const set = this.#byKey.get(name);
        if (set) set.add(wake);
        else this.#byKey.set(name, new Set([wake]));
      }
      return () => {
        for (const name of names) {
          const set = this.#byKey.get(name);
          if (set?.delete(wake) && set.size === 0) this.#byKey.delete(name);
        }
      };
    });
  }

  /** Resolves once a key that begins so changes. */
  forPrefix(prefix: Uint8Array, signal: AbortSignal): Promise<void> {
    return this.#wait(signal, (wake) => {
      this.#byPrefix.set(wake, namespaceName(prefix));
      return () => this.#byPrefix.delete(wake);
    });
  }

  #wait(signal: AbortSignal, arm: (wake: () => void) => () => void): Promise<void> {
    signal.throwIfAborted();
    if (this.#count >= keyWaitsCountMax) throw rejections.tooManyWaiters(keyWaitsCountMax);
    this.#count++;
    return new Promise<void>((resolve, reject) => {
      const end = () => {
        disarm();
        signal.removeEventListener("abort", onAbort);
        this.#count--;
      };
      const disarm = arm(() => {
        end();
        resolve();
      });
      const onAbort = () => {
        end();
        reject(signal.reason);
      };
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  changed(events: readonly KvEvent[]): void {
    if (this.#count === 0) return;
    const due = new Set<() => void>();
    for (const { kv } of events) {
      const name = namespaceName(kv.key);
      for (const wake of this.#byKey.get(name) ?? []) due.add(wake);
      for (const [wake, prefix] of this.#byPrefix) if (name.startsWith(prefix)) due.add(wake);
    }
    for (const wake of due) wake();
  }

  /** Whoever waits looks again. */
  replaced(): void {
    const due = new Set([...this.#byPrefix.keys(), ...[...this.#byKey.values()].flatMap((set) => [...set])]);
    for (const wake of due) wake();
  }
}
