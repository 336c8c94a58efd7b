import type { Client } from "@connectrpc/connect";
import { type Clock, utf8 } from "@ultracloud/base";
import type { KvService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { toFault } from "@ultracloud/rpc";

/** Which nodes are alive: each holds a lease that heartbeats renew. */
export interface NodeLeases {
  readonly ttlMs: number;
  /** Starts a lease for a node that registers. */
  grant(node: string): Promise<void>;
  /** False: the lease is gone or not known here, and the node must register again. */
  renew(node: string): Promise<boolean>;
  /** Nodes whose lease stands. */
  alive(): Promise<ReadonlySet<string>>;
}

/** Leases in chainfire, so that every replica sees the same nodes and time is the store's. `prefix` ends in "/". */
export function chainfireLeases(
  o: { readonly ttlMs: number; readonly prefix: string },
  clients: { readonly kv: Client<typeof KvService>; readonly leases: Client<typeof LeaseService> },
): NodeLeases {
  const { prefix } = o;
  const known = new Map<string, bigint>();
  return {
    ttlMs: o.ttlMs,
    async grant(node) {
      try {
        const key = utf8.encode(prefix + node);
        const { id } = await clients.leases.leaseGrant({ ttlMs: BigInt(o.ttlMs) });
        const before = (await clients.kv.put({ key, value: utf8.encode(node), lease: id, prevKv: true })).prevKv?.lease;
        known.set(node, id);
        // Another replica may still know the lease before: renewing that would keep nothing alive.
        if (before) await clients.leases.leaseRevoke({ id: before }).catch(() => {});
      } catch (error) {
        throw toFault(error);
      }
    },
    async renew(node) {
      try {
        let id = known.get(node);
        if (id === undefined) {
          // Another replica, or this one before its restart, granted it.
          const found = await clients.kv.range({ key: utf8.encode(prefix + node) });
          const kv = found.kvs[0];
          if (!kv || kv.lease === 0n) return false;
          known.set(node, id = kv.lease);
        }
        const answer = await clients.leases.leaseKeepAlive({ id });
        if (answer.ttlMs > 0n) return true;
        known.delete(node);
        return false;
      } catch (error) {
        const failure = toFault(error);
        if (failure.kind !== "not_found") throw failure;
        known.delete(node);
        return false;
      }
    },
    async alive() {
      try {
        const end = utf8.encode(prefix.slice(0, -1) + "0");
        const answer = await clients.kv.range({ key: utf8.encode(prefix), rangeEnd: end, keysOnly: true });
        return new Set(answer.kvs.map((kv) => utf8.decode(kv.key).slice(prefix.length)));
      } catch (error) {
        throw toFault(error);
      }
    },
  };
}

/** Leases of one process: the dumb twin of those in chainfire, for tests. */
export function localLeases(
  o: { readonly ttlMs: number },
  deps: { readonly clock: Pick<Clock, "monotonicMs"> },
): NodeLeases {
  const until = new Map<string, number>();
  const holds = (node: string) => (until.get(node) ?? -1) > deps.clock.monotonicMs();
  return {
    ttlMs: o.ttlMs,
    grant(node) {
      until.set(node, deps.clock.monotonicMs() + o.ttlMs);
      return Promise.resolve();
    },
    renew(node) {
      if (!holds(node)) return Promise.resolve(false);
      until.set(node, deps.clock.monotonicMs() + o.ttlMs);
      return Promise.resolve(true);
    },
    alive: () => Promise.resolve(new Set([...until.keys()].filter(holds))),
  };
}
