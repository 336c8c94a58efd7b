import { fault } from "@ultracloud/base";
import { assertLock, type Operation, type OvsdbClient } from "@ultracloud/ovsdb";
import type { Platform } from "@ultracloud/platform";
import { desiredRows, northboundTables, ownTables } from "./northbound.ts";
import { type NetworkRecords, readNetwork } from "../network_records.ts";
import { dumpRows, planOf, Settled } from "./rows.ts";
import type { NetworkState } from "./state.ts";

/** Everything is compared again this often, whatever was told: what others did to the database is undone. */
const sweepMs = 10_000;
/** Longest rest between two comparisons; with it a change still takes effect within a second. */
const restMsMax = 200;
/** Changes wait this long at most while northd is at the last ones: it computes a thousand as fast as one. */
const batchMsMax = 400;
/** A database that refuses is tried again after this. */
const retryMs = 500;
/** The one writer at a time, beside the leadership: a leader that does not know of its end yet writes nothing. */
export const writerLock = "ultracloud_prismnet";

export interface ReconcileResult {
  /** Operations written; 0: the database already was as desired. */
  readonly operations: number;
  readonly planMs: number;
}

/**
 * Keeps the northbound database what the records say: each change is compared with what it touches, everything only
 * now and then and when in doubt.
 */
export class NorthboundReconciler {
  readonly #platform: Platform;
  readonly #db: OvsdbClient;
  readonly #records: NetworkRecords;
  #settled = new Settled();
  #wake: (() => void) | undefined;
  #due = true;
  /** The records followed are not written while they are older than those of the last full comparison. */
  #floor = 0;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(
    deps: { readonly platform: Platform; readonly db: OvsdbClient; readonly records: NetworkRecords },
  ) {
    this.#platform = deps.platform;
    this.#db = deps.db;
    this.#records = deps.records;
  }

  /** Reads and compares everything once and writes what differs. Comparisons wait for each other. */
  once(): Promise<ReconcileResult> {
    return this.#inTurn(async () => {
      const { state, version } = await readNetwork(this.#platform);
      this.#floor = version;
      this.#settled = new Settled();
      return await this.#compare(state);
    });
  }

  /** Compares the records as followed, passing over what has not changed since it was found right. */
  #step(): Promise<ReconcileResult> {
    return this.#inTurn(async () => {
      const { state } = this.#records;
      if (!state || !this.#records.reaches(this.#floor)) return { operations: 0, planMs: 0 };
      return await this.#compare(state);
    });
  }

  #inTurn(work: () => Promise<ReconcileResult>): Promise<ReconcileResult> {
    const turn = this.#tail.then(work);
    this.#tail = turn.catch(() => {});
    return turn;
  }

  async #compare(state: NetworkState): Promise<ReconcileResult> {
    const { schema, replica } = this.#db;
    if (!this.#db.connected || !schema) {
      throw fault("unavailable", "northbound_unavailable", `Cannot reconcile as ${this.#db.reason}`);
    }
    const begin = this.#platform.clock.monotonicMs();
    const operations = planOf(desiredRows(state), ownTables, replica, schema, this.#settled);
    const planMs = this.#platform.clock.monotonicMs() - begin;
    if (operations.length > 0) {
      const comment: Operation = { op: "comment", comment: `ultracloud prismnet: ${operations.length} operations` };
      await this.#db.transact([assertLock(writerLock), ...operations, ...this.#fence(), comment]);
    }
    return { operations: operations.length, planMs };
  }

  /** Rows that stand, references as keys: equal exactly when two states are. */
  dump(): string[] {
    return dumpRows(ownTables, this.#db.replica, northboundTables);
  }

  /** Works until the signal; run it where this replica leads. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#platform;
    await using lock = this.#db.lock(writerLock);
    const stops = [this.#db.onChange(() => this.#nudge()), this.#records.onChange(() => this.#nudge())];
    let failing = false;
    let sweptMs = clock.monotonicMs();
    try {
      while (!signal.aborted) {
        await lock.acquired(signal);
        if (clock.monotonicMs() - sweptMs >= sweepMs) {
          this.#settled = new Settled();
          sweptMs = clock.monotonicMs();
        }
        this.#due = false;
        let pauseMs = sweepMs;
        const begin = clock.monotonicMs();
        try {
          const { operations } = await this.#step();
          // Half of the time is the callers': a thousand ports made at once are a thousand reasons to compare.
          await clock.sleep(Math.min(clock.monotonicMs() - begin, restMsMax), signal).catch(() => {});
          if (operations > 0) await this.#taken(signal);
          if (operations > 0) log.debug("northbound database written", { operations });
          if (failing) log.info("northbound database is written again", {});
          failing = false;
        } catch (error) {
          if (signal.aborted) break;
          if (!failing) log.warn("cannot write the northbound database", { error: String(error) });
          failing = true;
          this.#settled = new Settled();
          pauseMs = retryMs;
        }
        await this.#pause(pauseMs, failing, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      for (const stop of stops) stop();
    }
  }

  #nudge(): void {
    this.#due = true;
    this.#wake?.();
  }

  async #pause(ms: number, failing: boolean, signal: AbortSignal): Promise<void> {
    if (this.#due && !failing) return;
    const over = new AbortController();
    if (!failing) this.#wake = () => over.abort();
    await this.#platform.clock.sleep(ms, AbortSignal.any([signal, over.signal])).catch(() => {});
    this.#wake = undefined;
  }

  /** Waits until northd has turned what was written into flows, or long enough. */
  async #taken(signal: AbortSignal): Promise<void> {
    const { clock } = this.#platform;
    const behind = () => {
      const { written, computed } = fenceOf(this.#db);
      return computed < written;
    };
    const over = new AbortController();
    const stop = this.#db.onChange(() => behind() || over.abort());
    if (behind()) await clock.sleep(batchMsMax, AbortSignal.any([signal, over.signal])).catch(() => {});
    stop();
  }

  /** Counts the configuration up, so that `hv_cfg` tells when every chassis has it. */
  #fence(): Operation[] {
    return [{ op: "mutate", table: "NB_Global", where: [], mutations: [["nb_cfg", "+=", 1]] }];
  }
}

/** The configuration's number as written, as northd has computed it, and as every chassis has it. */
export function fenceOf(db: OvsdbClient): { written: number; computed: number; realised: number } {
  const [row] = db.replica.rows("NB_Global").values();
  const number = (column: string) => Number(row?.[column] ?? 0);
  return { written: number("nb_cfg"), computed: number("sb_cfg"), realised: number("hv_cfg") };
}
