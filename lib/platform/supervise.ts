import type { Clock, Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import type { KvBackend } from "./kv.ts";
import { type LeaderClients, leadWhile } from "./leader.ts";
import { buckets } from "./records.ts";

const probeMs = 5_000;
/** While the store is not there a service is not ready: look often. */
const retryMs = 250;

/** Keeps health's part `flaredb` true to whether records can be read, until the signal aborts. */
export async function superviseStore(
  kv: KvBackend,
  deps: { readonly health: Health; readonly clock: Clock },
  signal: AbortSignal,
): Promise<void> {
  let was: "starting" | "degraded" = "starting";
  deps.health.set("flaredb", was, "not yet asked");
  while (!signal.aborted) {
    let pauseMs = probeMs;
    try {
      await kv.get(buckets.rows, "probe", signal);
      was = "degraded";
      deps.health.set("flaredb", "ready");
    } catch (error) {
      if (signal.aborted) return;
      pauseMs = retryMs;
      deps.health.set("flaredb", was, error instanceof Error ? error.message : String(error));
    }
    await deps.clock.sleep(pauseMs, signal).catch(() => {});
  }
}

/**
 * The background of a service, as a resource: watches its store and runs `work` where this replica leads. Disposing
 * of it ends both and waits for them.
 */
export function runBackground(
  o: { readonly name: string; readonly clients: LeaderClients; readonly leaseTtlMs?: number },
  deps: {
    readonly kv: KvBackend;
    readonly health: Health;
    readonly clock: Clock;
    readonly rng: Rng;
    readonly log: Logger;
  },
  work: (signal: AbortSignal) => Promise<void>,
): AsyncDisposable {
  const stop = new AbortController();
  let reached = false;
  deps.health.set("chainfire", "starting", "leadership not yet asked for");
  const leader = {
    name: o.name,
    ...(o.leaseTtlMs === undefined ? {} : { ttlMs: o.leaseTtlMs }),
    onChange: (state: "leading" | "following" | "unreachable", reason: string) => {
      if (state === "unreachable") deps.health.set("chainfire", reached ? "degraded" : "starting", reason);
      else deps.health.set("chainfire", "ready", reason);
      reached ||= state !== "unreachable";
    },
  };
  const running = Promise.all([
    superviseStore(deps.kv, deps, stop.signal),
    leadWhile(leader, { ...deps, clients: o.clients }, stop.signal, work),
  ]);
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}
