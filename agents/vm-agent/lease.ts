import { assert, type Clock, utf8 } from "@ultracloud/base";
import { removeAll } from "./files.ts";

/**
 * Of the lease's time, how much is kept for ending QEMUs: killing is a matter of milliseconds, so this is for a host
 * whose processes wait for the CPU.
 */
const guardShare = 1 / 4;
const guardMsMin = 250;
const guardMsMax = 5_000;
/** Heartbeats come this often within a lease; two may be lost before the worker must stop its VMs. */
export const heartbeatsPerLease = 3;

/**
 * The worker's lease at the control plane, as far as the worker may believe in it.
 *
 * The store counts a renewal from when it is made, which is after the worker has sent it. So a lease whose renewal was
 * sent at T lasts at least until T + ttl, and VMs that might be started elsewhere are ended before: at T + ttl - guard.
 * Only the monotonic clock counts here. A file keeps the end for the next agent on this host.
 */
export class WorkerLease {
  readonly #path: string;
  readonly #clock: Clock;
  #endMs: number | undefined;
  #guardMs = 0;
  #changed = Promise.withResolvers<void>();
  #kept: Promise<void> = Promise.resolve();

  constructor(options: { readonly stateDir: string }, deps: { readonly clock: Clock }) {
    this.#path = `${options.stateDir}/lease.json`;
    this.#clock = deps.clock;
  }

  /** Takes over what an agent before this one believed; a wall clock set back cannot prolong it beyond its length. */
  async restore(): Promise<void> {
    let kept: { endAtMs: number; ttlMs: number };
    try {
      kept = JSON.parse(await Deno.readTextFile(this.#path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return;
      throw error;
    }
    const leftMs = Math.min(kept.endAtMs - this.#clock.nowMs(), kept.ttlMs);
    this.#guardMs = guardOf(kept.ttlMs);
    this.#endMs = this.#clock.monotonicMs() + Math.max(leftMs, 0);
  }

  /** The control plane has answered a renewal that was sent at `sentAtMs` (monotonic). */
  async renewed(sentAtMs: number, ttlMs: number): Promise<void> {
    this.#guardMs = guardOf(ttlMs);
    this.#endMs = Math.max(this.#endMs ?? 0, sentAtMs + ttlMs);
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
    const endAtMs = this.#clock.nowMs() + this.#endMs - this.#clock.monotonicMs();
    const text = utf8.encode(JSON.stringify({ endAtMs, ttlMs }));
    // One after the other: two answers may come at once.
    this.#kept = this.#kept.catch(() => {}).then(async () => {
      // Not synced: a host that loses power has no VMs to stop.
      await Deno.writeFile(`${this.#path}.tmp`, text, { mode: 0o600 });
      await Deno.rename(`${this.#path}.tmp`, this.#path);
    });
    await this.#kept;
  }

  /** When VMs are ended unless it is renewed; undefined: there never was a lease. */
  get fenceAtMs(): number | undefined {
    return this.#endMs === undefined ? undefined : this.#endMs - this.#guardMs;
  }

  /** False from the moment at which VMs are ended. A worker that never had one has nothing to lose. */
  get held(): boolean {
    return this.fenceAtMs === undefined || this.#clock.monotonicMs() < this.fenceAtMs;
  }

  /** Resolves at the next renewal. */
  get change(): Promise<void> {
    return this.#changed.promise;
  }

  async forget(): Promise<void> {
    await removeAll(this.#path);
  }
}

/** Part of a lease of this length that is kept for ending QEMUs. */
export function guardOf(ttlMs: number): number {
  const guardMs = Math.min(Math.max(ttlMs * guardShare, guardMsMin), guardMsMax);
  assert(ttlMs / heartbeatsPerLease + guardMs < ttlMs, `a lease of ${ttlMs} ms leaves time for a heartbeat`);
  return guardMs;
}
