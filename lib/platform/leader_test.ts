import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import {
  LeaseGrantResponseSchema,
  LeaseKeepAliveResponseSchema,
  LeaseRevokeResponseSchema,
  TxnResponseSchema,
} from "@ultracloud/proto/chainfire/v1";
import { type LeaderClients, leadWhile } from "./leader.ts";

const ttlMs = 300;

/** One key on leases, by the clock: as much of chainfire as leadership uses. */
class Coordination {
  holder: { lease: bigint } | undefined;
  readonly #until = new Map<bigint, number>();
  #ids = 0n;

  /** The holder's lease has run out. */
  expired(): boolean {
    return this.holder !== undefined && (this.#until.get(this.holder.lease) ?? 0) <= performance.now();
  }

  /** What one process sees of it; `cut` breaks the line. */
  connect(): { clients: LeaderClients; cut: boolean } {
    const line = { cut: false } as { clients: LeaderClients; cut: boolean };
    const check = () => {
      if (line.cut) throw fault("unavailable", "connection_lost", "Cannot reach chainfire");
    };
    line.clients = {
      kv: {
        txn: (request: { success: { request: { value: { lease: bigint } } }[] }) => {
          check();
          if (this.expired()) this.holder = undefined;
          const succeeded = this.holder === undefined;
          if (succeeded) this.holder = { lease: request.success[0]!.request.value.lease };
          return Promise.resolve(create(TxnResponseSchema, { succeeded }));
        },
      },
      leases: {
        leaseGrant: () => {
          check();
          const id = ++this.#ids;
          this.#until.set(id, performance.now() + ttlMs);
          return Promise.resolve(create(LeaseGrantResponseSchema, { id, ttlMs: BigInt(ttlMs) }));
        },
        leaseKeepAlive: ({ id }: { id: bigint }) => {
          check();
          this.#until.set(id, performance.now() + ttlMs);
          return Promise.resolve(create(LeaseKeepAliveResponseSchema, { id, ttlMs: BigInt(ttlMs) }));
        },
        leaseRevoke: async ({ id }: { id: bigint }) => {
          await Promise.resolve();
          check();
          this.#until.delete(id);
          if (this.holder?.lease === id) this.holder = undefined;
          return create(LeaseRevokeResponseSchema, {});
        },
      },
    } as unknown as LeaderClients;
    return line;
  }
}

/** A process that wants to lead; `leading` while it does. */
function contend(coordination: Coordination) {
  const line = coordination.connect();
  const stop = new AbortController();
  const self = {
    leading: false,
    /** The store still holds the lease when work's signal aborts. */
    stoppedInTime: undefined as boolean | undefined,
    line,
    stop: () => {
      stop.abort();
      return running;
    },
  };
  const deps = { clients: line.clients, clock: systemClock, rng: seededRng(1), log: noopLogger };
  const running = leadWhile({ name: "test", ttlMs }, deps, stop.signal, async (signal) => {
    self.leading = true;
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    self.stoppedInTime = !coordination.expired();
    self.leading = false;
  });
  return self;
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!holds()) {
    assert.ok(performance.now() < deadline, `never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

Deno.test("of two processes one leads, and the other follows when it stops", async () => {
  const coordination = new Coordination();
  const a = contend(coordination);
  await until("a leads", () => a.leading);
  const b = contend(coordination);
  const lookUntil = performance.now() + 2 * ttlMs;
  await until("the lease has been renewed", () => {
    assert.ok(a.leading && !b.leading);
    return performance.now() > lookUntil;
  });
  await a.stop();
  await until("b leads", () => b.leading);
  await b.stop();
  assert.equal(coordination.holder, undefined);
});

Deno.test("a leader that is cut off stops before its lease can have run out, and another takes over", async () => {
  const coordination = new Coordination();
  const a = contend(coordination);
  await until("a leads", () => a.leading);
  const b = contend(coordination);
  a.line.cut = true;
  await until("a has stopped", () => !a.leading);
  assert.equal(a.stoppedInTime, true);
  await until("b leads", () => b.leading);
  a.line.cut = false;
  assert.equal(a.leading, false);
  await Promise.all([a.stop(), b.stop()]);
});
