import { Fault, type Rng, seededRng, systemClock, uniform, utf8 } from "@ultracloud/base";
import { checkLinearizable, type RegisterAction, type RegisterOperation } from "@ultracloud/testing";
import { prepareCluster, type TestCluster } from "./test_cluster.ts";
import type { ProxyFault } from "./test_fault_proxy.ts";

/** Members, and how many of them may be unwell at once. */
const members = 5;
const unwellMax = 2;
const clients = 6;
const registers = ["r1", "r2", "r3"];
const leaseTtlMs = 2_000;
/** Operations of a client are this far apart at most, so that a history stays short enough to be decided. */
const paceMsMax = 40;
const callTimeoutMs = 1_500;

export interface HistoryReport {
  readonly operations: number;
  readonly unknown: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly events: number;
  readonly leases: number;
  /** What was found wrong; empty when the store kept its promises. */
  readonly violations: readonly string[];
  /** The register histories as a log that `deno task lincheck` reads, one per register. */
  readonly logs: Readonly<Record<string, string>>;
}

const number = (bytes: Uint8Array) => Number(utf8.decode(bytes));
const bytes = (value: number) => utf8.encode(String(value));
const now = () => performance.now();

/** Five real processes under clients and faults for a while; what the clients saw is then judged. */
export async function runHistory(
  options: {
    readonly seed: number;
    readonly seconds: number;
    /** Clients go on without faults until there are as many operations, on a slow machine; a minute at most. */
    readonly operationsMin?: number;
    readonly say?: (text: string) => void;
  },
): Promise<HistoryReport> {
  const rng = seededRng(options.seed);
  await using cluster = await prepareCluster(members, {}, { proxied: true });
  await cluster.startAll();
  await cluster.leader();
  options.say?.(`five members run; faults for ${options.seconds} s`);
  const over = new AbortController();
  const history: RegisterOperation[] = [];
  const watched = new WatchedEvents();
  const leases = new LeaseWatch();
  const work = [
    ...Array.from(
      { length: clients },
      (_, i) => drive(cluster, i, seededRng(options.seed * 100 + i), history, over.signal),
    ),
    watched.follow(cluster, over.signal),
    leases.grantAgainAndAgain(cluster, over.signal),
  ];
  const { faults, heal } = await disturb(cluster, rng, options.seconds * 1_000, options.say);
  await heal();
  const healed = now();
  while (history.length < (options.operationsMin ?? 0) && now() - healed < 60_000) await systemClock.sleep(100);
  over.abort();
  await Promise.all(work);
  await cluster.leader(60_000);
  const violations = [
    ...checkLinearizable(history).map((key) => `register ${key} has no order that explains it`),
    ...await watched.compare(cluster),
    ...leases.violations,
  ];
  return {
    operations: history.length,
    unknown: history.filter(({ returnedAt }) => returnedAt === Infinity).length,
    faults,
    events: watched.count,
    leases: leases.ended,
    violations,
    logs: Object.fromEntries(registers.map((key) => [key, jepsenLog(history.filter((op) => op.key === key))])),
  };
}

/** One client: reads, writes and swaps of its own pace at a member of its choice. */
async function drive(
  cluster: TestCluster,
  client: number,
  rng: Rng,
  history: RegisterOperation[],
  signal: AbortSignal,
): Promise<void> {
  let value = (client + 1) * 1_000_000;
  const { kv } = cluster.clients();
  const seen = new Map<string, number>();
  while (!signal.aborted) {
    const key = registers[uniform(rng, registers.length)]!;
    const invokedAt = now();
    const choice = uniform(rng, 3);
    const next = ++value;
    const expected = seen.get(key) ?? 0;
    let action: RegisterAction = choice === 0
      ? { kind: "read", value: 0 }
      : choice === 1
      ? { kind: "write", value: next }
      : { kind: "cas", expected, value: next, swapped: true };
    let returnedAt = Infinity;
    try {
      const call = { timeoutMs: callTimeoutMs };
      if (action.kind === "read") {
        const { kvs } = await kv.range({ key: utf8.encode(key) }, call);
        action = { kind: "read", value: kvs.length === 0 ? 0 : number(kvs[0]!.value) };
        seen.set(key, action.value);
      } else if (action.kind === "write") {
        await kv.put({ key: utf8.encode(key), value: bytes(next) }, call);
        seen.set(key, next);
      } else {
        const { succeeded } = await kv.txn({
          compare: [
            expected === 0
              ? { key: utf8.encode(key), target: { case: "version", value: 0n } }
              : { key: utf8.encode(key), target: { case: "value", value: bytes(expected) } },
          ],
          success: [{ request: { case: "put", value: { key: utf8.encode(key), value: bytes(next) } } }],
        }, call);
        action = { ...action, swapped: succeeded };
        if (succeeded) seen.set(key, next);
        else seen.delete(key);
      }
      returnedAt = now();
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      // The client may have repeated the call: even a refusal leaves open what an earlier try of it did.
    }
    history.push({ key, action, invokedAt, returnedAt });
    await systemClock.sleep(5 + uniform(rng, paceMsMax));
  }
}

/** Kills, pauses and cuts off members, never more than the rest can do without, until the time is over. */
async function disturb(
  cluster: TestCluster,
  rng: Rng,
  forMs: number,
  say: ((text: string) => void) | undefined,
): Promise<{ faults: Record<string, number>; heal: () => Promise<void> }> {
  const faults: Record<string, number> = {};
  const unwell = new Map<number, () => Promise<void>>();
  const kinds = ["kill", "pause", "silent", "reset", "slow"] as const;
  const end = now() + forMs;
  while (now() < end) {
    const id = 1 + uniform(rng, members);
    const recover = unwell.get(id);
    if (recover) {
      unwell.delete(id);
      await recover();
    } else if (unwell.size < unwellMax) {
      const kind = kinds[uniform(rng, kinds.length)]!;
      faults[kind] = (faults[kind] ?? 0) + 1;
      say?.(`${kind} member ${id}`);
      if (kind === "kill") {
        await cluster.kill(id);
        unwell.set(id, () => cluster.start(id));
      } else if (kind === "pause") {
        cluster.signal(id, "SIGSTOP");
        unwell.set(id, () => Promise.resolve(cluster.signal(id, "SIGCONT")));
      } else {
        const proxy = cluster.proxies.get(id)!;
        proxy.fault = kind satisfies ProxyFault;
        unwell.set(id, () => Promise.resolve(void (proxy.fault = "none")));
      }
    }
    await systemClock.sleep(200 + uniform(rng, 1_200));
  }
  return {
    faults,
    heal: async () => {
      for (const recover of unwell.values()) await recover();
    },
  };
}

const every = { key: new Uint8Array([0]), rangeEnd: new Uint8Array([0]) };

/** A watch of everything from the first revision on, opened again where it broke off. */
class WatchedEvents {
  #next = 1n;
  readonly #seen: string[] = [];

  get count(): number {
    return this.#seen.length;
  }

  async follow(cluster: TestCluster, signal: AbortSignal): Promise<void> {
    const { watches } = cluster.clients();
    while (!signal.aborted) {
      try {
        await this.#read(watches, signal, Infinity);
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        await systemClock.sleep(50);
      }
    }
  }

  async #read(
    watches: ReturnType<TestCluster["clients"]>["watches"],
    signal: AbortSignal,
    until: bigint | number,
  ): Promise<void> {
    const stream = watches.watch(
      { watches: [{ watchId: 1n, ...every, startRevision: this.#next }], progressIntervalMs: 500 },
      { signal },
    );
    for await (const { events, header, cancelled, cancelReason } of stream) {
      if (cancelled) throw new Error(`The watch was cancelled: ${cancelReason}`);
      for (const { type, kv } of events) {
        this.#seen.push(`${kv!.modRevision} ${type} ${utf8.decode(kv!.key)} ${utf8.decode(kv!.value)}`);
        this.#next = kv!.modRevision + 1n;
      }
      if (header!.revision >= until && this.#next > until) return;
    }
  }

  /** Catches up, and compares with a watch that never broke off. */
  async compare(cluster: TestCluster): Promise<string[]> {
    const { kv, watches } = cluster.clients();
    // A member that was away may call for another election: what counts is that a write goes through at all.
    let header: { revision: bigint } | undefined;
    for (const end = performance.now() + 60_000; !header;) {
      try {
        header = (await kv.put({ key: utf8.encode("end"), value: utf8.encode("end") })).header!;
      } catch (error) {
        if (performance.now() > end) throw error;
        await systemClock.sleep(100);
      }
    }
    const limit = AbortSignal.timeout(60_000);
    if (this.#next <= header.revision) await this.#read(watches, limit, header.revision);
    const whole = new WatchedEvents();
    await whole.#read(watches, limit, header.revision);
    const at = whole.#seen.findIndex((event, i) => event !== this.#seen[i]);
    if (at < 0 && whole.#seen.length === this.#seen.length) return [];
    return [`the watch that broke off saw "${this.#seen[at]}" as event ${at}, wanted "${whole.#seen[at]}"`];
  }
}

/** Leases that nobody keeps alive: none may end before its time. */
class LeaseWatch {
  readonly violations: string[] = [];
  ended = 0;

  async grantAgainAndAgain(cluster: TestCluster, signal: AbortSignal): Promise<void> {
    const { kv, leases } = cluster.clients();
    for (let i = 0; !signal.aborted; i++) {
      const key = utf8.encode(`lease-${i}`);
      try {
        const askedAt = now();
        const { id } = await leases.leaseGrant({ ttlMs: BigInt(leaseTtlMs) }, { timeoutMs: callTimeoutMs });
        await kv.put({ key, value: bytes(i), lease: id }, { timeoutMs: callTimeoutMs });
        for (;;) {
          const { kvs } = await kv.range({ key }, { timeoutMs: callTimeoutMs });
          // Counted from before the grant was asked for: the lease lives at least as long from its grant on.
          if (kvs.length > 0) {
            if (signal.aborted) return;
            await systemClock.sleep(50);
            continue;
          }
          const livedMs = now() - askedAt;
          if (livedMs < leaseTtlMs) this.violations.push(`lease ${id} ended after ${livedMs.toFixed(0)} ms`);
          this.ended++;
          break;
        }
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        await systemClock.sleep(50);
      }
    }
  }
}

/** The operations on one register in the words of a Jepsen log. */
function jepsenLog(history: readonly RegisterOperation[]): string {
  const lines: { at: number; text: string }[] = [];
  history.forEach(({ action, invokedAt, returnedAt }, process) => {
    const line = (at: number, type: string, value: string) =>
      lines.push({ at, text: `INFO  jepsen.util - ${process}\t:${type}\t:${action.kind}\t${value}` });
    const asked = action.kind === "read"
      ? "nil"
      : action.kind === "write"
      ? String(action.value)
      : `[${action.expected === 0 ? "nil" : action.expected} ${action.value}]`;
    line(invokedAt, "invoke", asked);
    if (returnedAt === Infinity) line(Number.MAX_VALUE, "info", ":timed-out");
    else if (action.kind === "read") line(returnedAt, "ok", action.value === 0 ? "nil" : String(action.value));
    else line(returnedAt, action.kind === "cas" && !action.swapped ? "fail" : "ok", asked);
  });
  return lines.sort((a, b) => a.at - b.at).map(({ text }) => text + "\n").join("");
}
