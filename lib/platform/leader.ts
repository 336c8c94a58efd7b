import type { Client } from "@connectrpc/connect";
import { type Clock, fault, type Rng, ulid, utf8 } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { CompareResult, type KvService, type LeaseService } from "@ultracloud/proto/chainfire/v1";
import { toFault } from "@ultracloud/rpc";

export interface LeaderClients {
  readonly kv: Client<typeof KvService>;
  readonly leases: Client<typeof LeaseService>;
}

export interface LeaderOptions {
  /** What is led: "plasmavmc". */
  readonly name: string;
  /** After this long without contact another replica may lead. */
  readonly ttlMs?: number;
  /** Told when it changes: this one leads, another does, or chainfire cannot be asked. */
  readonly onChange?: (state: "leading" | "following" | "unreachable", reason: string) => void;
}

const ttlMsDefault = 10_000;

/**
 * Runs `work` while this process leads, one process at a time, until `signal` aborts. Leadership is a key on a
 * chainfire lease; `work`'s signal aborts before the lease can have run out, measured on the monotonic clock, so two
 * leaders never overlap by more than what `work` does after its signal.
 */
export async function leadWhile(
  o: LeaderOptions,
  deps: {
    readonly clients: LeaderClients;
    readonly clock: Clock;
    readonly rng: Rng;
    readonly log: Logger;
  },
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { clock, log, clients } = deps;
  const ttlMs = o.ttlMs ?? ttlMsDefault;
  const key = utf8.encode(`/ultracloud/leaders/${o.name}`);
  const self = utf8.encode(ulid(clock, deps.rng));
  const call = { signal, timeoutMs: Math.max(1000, Math.floor(ttlMs / 3)) };
  const nap = (ms: number, until: AbortSignal) => clock.sleep(ms, until).catch(() => {});
  let told: string | undefined;
  const tell = (state: "leading" | "following" | "unreachable", reason: string) => {
    if (told === reason) return;
    told = reason;
    o.onChange?.(state, reason);
  };

  while (!signal.aborted) {
    let lease: bigint | undefined;
    try {
      const askedMs = clock.monotonicMs();
      lease = (await clients.leases.leaseGrant({ ttlMs: BigInt(ttlMs) }, call)).id;
      const won = await clients.kv.txn({
        compare: [{ result: CompareResult.EQUAL, key, target: { case: "createRevision", value: 0n } }],
        success: [{ request: { case: "put", value: { key, value: self, lease } } }],
      }, call);
      if (won.succeeded) {
        tell("leading", "this replica leads");
        log.info("leadership taken", { name: o.name });
        await lead(lease, askedMs);
        tell("following", "leadership given up");
        log.info("leadership given up", { name: o.name });
      } else {
        tell("following", "another replica leads");
      }
    } catch (error) {
      if (!signal.aborted) {
        tell("unreachable", `cannot take leadership: ${toFault(error).message}`);
        log.debug("cannot take leadership", { name: o.name, error: String(error) });
      }
    } finally {
      if (lease !== undefined) {
        // Without it the lease ends by itself, and the next leader waits for that.
        await clients.leases.leaseRevoke({ id: lease }, { timeoutMs: 1000 }).catch(() => {});
      }
    }
    if (!signal.aborted) await nap(Math.min(1000, ttlMs / 3), signal);
  }

  async function lead(lease: bigint, askedMs: number): Promise<void> {
    const lost = new AbortController();
    const leading = AbortSignal.any([signal, lost.signal]);
    // A grant or renewal counts from when it was asked for; a third is left for work to stop in.
    let safeUntilMs = askedMs + (ttlMs * 2) / 3;
    const keep = (async () => {
      while (!leading.aborted) {
        await nap(ttlMs / 6, leading);
        if (leading.aborted) return;
        const renewMs = clock.monotonicMs();
        try {
          const left = Math.max(1, safeUntilMs - renewMs);
          const answer = await clients.leases.leaseKeepAlive({ id: lease }, {
            signal: leading,
            timeoutMs: Math.floor(Math.min(left, ttlMs / 3)) + 1,
          });
          if (answer.ttlMs <= 0n) throw fault("aborted", "lease_lost", "Cannot keep the lease as it has expired");
          safeUntilMs = renewMs + (ttlMs * 2) / 3;
        } catch (error) {
          if (leading.aborted) return;
          if (isGone(error) || clock.monotonicMs() >= safeUntilMs) {
            lost.abort(fault("aborted", "leadership_lost", "Cannot go on as leadership is lost"));
          }
        }
      }
    })();
    try {
      await work(leading);
    } catch (error) {
      if (!leading.aborted) log.error("leader's work failed", { name: o.name, error: String(error) });
    } finally {
      lost.abort();
      await keep;
    }
  }
}

function isGone(error: unknown): boolean {
  const known = toFault(error);
  return known.kind === "not_found" || known.code === "lease_lost";
}
