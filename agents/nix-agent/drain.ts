import type { Client } from "@connectrpc/connect";
import { type Clock, fault, type Rng, ulid, utf8 } from "@ultracloud/base";
import {
  drainAnswerKey,
  drainAnswerSchema,
  drainLeaseTtlMs,
  type DrainRequest,
  drainRequestKey,
} from "@ultracloud/cluster-state";
import type { Logger } from "@ultracloud/observe";
import type { KvService, LeaseService } from "@ultracloud/proto/chainfire/v1";

const lookMs = 500;

export interface DrainClients {
  readonly kv: Client<typeof KvService>;
  readonly leases: Client<typeof LeaseService>;
}

/** The node is free of services for as long as it is held. Disposing of it lets them come back. */
export type DrainHold = AsyncDisposable;

/**
 * Asks fleet-scheduler for the node without its services (lib/cluster-state, `drain.ts`) and waits until it grants it.
 * Refused, or not granted in time, is a failed_precondition, and the request is taken back.
 */
export async function acquireDrain(
  o: {
    readonly node: string;
    readonly reason: DrainRequest["reason"];
    readonly targetSystem: string;
    readonly timeoutMs: number;
    readonly onWait: (reason: string) => Promise<void>;
  },
  deps: { readonly clients: DrainClients; readonly clock: Clock; readonly rng: Rng; readonly log: Logger },
  signal: AbortSignal,
): Promise<DrainHold> {
  const { clients, clock, log } = deps;
  const id = ulid(clock, deps.rng);
  const nowMs = clock.nowMs();
  const request: DrainRequest = {
    id,
    node: o.node,
    reason: o.reason,
    targetSystem: o.targetSystem,
    requestedMs: nowMs,
    deadlineMs: nowMs + o.timeoutMs,
  };
  const endMs = clock.monotonicMs() + o.timeoutMs;
  const lease = (await clients.leases.leaseGrant({ ttlMs: BigInt(drainLeaseTtlMs) }, { signal })).id;
  const over = new AbortController();
  const keeping = (async () => {
    while (!over.signal.aborted) {
      await clock.sleep(drainLeaseTtlMs / 3, over.signal).catch(() => {});
      if (over.signal.aborted) return;
      await clients.leases.leaseKeepAlive({ id: lease }, { timeoutMs: drainLeaseTtlMs / 3 }).catch((error) =>
        log.warn("cannot keep the drain", { error: String(error) })
      );
    }
  })();
  const release = async () => {
    over.abort();
    await keeping;
    // The request goes with its lease; if this fails, the lease runs out.
    await clients.leases.leaseRevoke({ id: lease }, { timeoutMs: 5_000 }).catch(() => {});
  };
  try {
    const key = utf8.encode(drainRequestKey(o.node));
    await clients.kv.put({ key, value: utf8.encode(JSON.stringify(request)), lease }, { signal });
    await o.onWait("waits for the drain: asked fleet-scheduler for it");
    for (;;) {
      const answer = await answerOf(clients.kv, o.node, signal);
      if (answer?.requestId === id) {
        if (answer.state === "granted") return { [Symbol.asyncDispose]: release };
        if (answer.state === "refused") {
          throw fault(
            "failed_precondition",
            "drain_refused",
            `Cannot switch as the drain was refused: ${answer.reason}`,
          );
        }
        await o.onWait(`waits for the drain: ${answer.remaining} instances still run; ${answer.reason}`);
      }
      if (clock.monotonicMs() >= endMs) {
        throw fault(
          "failed_precondition",
          "drain_timeout",
          `Cannot switch as the drain was not granted within ${o.timeoutMs} ms`,
        );
      }
      await clock.sleep(Math.max(1, Math.min(lookMs, endMs - clock.monotonicMs())), signal);
    }
  } catch (error) {
    await release();
    throw error;
  }
}

async function answerOf(kv: DrainClients["kv"], node: string, signal: AbortSignal) {
  const { kvs: [item] } = await kv.range({ key: utf8.encode(drainAnswerKey(node)) }, { signal });
  if (item === undefined) return undefined;
  try {
    return drainAnswerSchema.parse(JSON.parse(utf8.decode(item.value)));
  } catch {
    // Not for us to judge: what cannot be read grants nothing.
    return undefined;
  }
}
