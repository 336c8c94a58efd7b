import { fault } from "@ultracloud/base";
import { assertLock, type Operation, type OvsdbClient } from "@ultracloud/ovsdb";
import type { Platform } from "@ultracloud/platform";
import { desiredRows, northboundTables, ownTables } from "./northbound.ts";
import { StateReader } from "./reader.ts";
import { dumpRows, planOf } from "./rows.ts";

/** Everything is compared again this often, whatever was told: what others did to the database is undone. */
const sweepMs = 10_000;
/** Longest rest between two comparisons; with it a change still takes effect within a second. */
const restMsMax = 200;
/** A database that refuses is tried again after this. */
const retryMs = 500;
/** The one writer at a time, beside the leadership: a leader that does not know of its end yet writes nothing. */
export const writerLock = "ultracloud_prismnet";

export interface ReconcileResult {
  /** Operations written; 0: the database already was as desired. */
  readonly operations: number;
  readonly planMs: number;
}

/** Keeps the northbound database what the records say. */
export class NorthboundReconciler {
  readonly #platform: Platform;
  readonly #db: OvsdbClient;
  readonly #reader: StateReader;
  #wake: (() => void) | undefined;
  #due = true;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(deps: { readonly platform: Platform; readonly db: OvsdbClient }) {
    this.#platform = deps.platform;
    this.#db = deps.db;
    this.#reader = new StateReader(deps.platform);
  }

  /** Compares once and writes what differs; calls wait for each other, as a plan holds for the state it was made of. */
  once(): Promise<ReconcileResult> {
    const turn = this.#tail.then(() => this.#compare());
    this.#tail = turn.catch(() => {});
    return turn;
  }

  async #compare(): Promise<ReconcileResult> {
    const state = await this.#reader.read();
    const { schema, replica } = this.#db;
    if (!this.#db.connected || !schema) {
      throw fault("unavailable", "northbound_unavailable", `Cannot reconcile as ${this.#db.reason}`);
    }
    const begin = this.#platform.clock.monotonicMs();
    const operations = planOf(desiredRows(state), ownTables, replica, schema);
    const planMs = this.#platform.clock.monotonicMs() - begin;
    if (operations.length > 0) {
      await this.#db.transact([assertLock(writerLock), ...operations, ...this.#fence()]);
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
    const stop = this.#db.onChange(() => this.#nudge());
    const following = this.#reader.follow(() => this.#nudge(), signal);
    let failing = false;
    let sweptMs = clock.monotonicMs();
    try {
      while (!signal.aborted) {
        await lock.acquired(signal);
        if (clock.monotonicMs() - sweptMs >= sweepMs) {
          this.#reader.distrust();
          sweptMs = clock.monotonicMs();
        }
        this.#due = false;
        let pauseMs = sweepMs;
        const begin = clock.monotonicMs();
        try {
          const { operations } = await this.once();
          // Half of the time is the callers': a thousand ports made at once are a thousand reasons to compare.
          await clock.sleep(Math.min(clock.monotonicMs() - begin, restMsMax), signal).catch(() => {});
          if (operations > 0) log.debug("northbound database written", { operations });
          if (failing) log.info("northbound database is written again", {});
          failing = false;
        } catch (error) {
          if (signal.aborted) break;
          if (!failing) log.warn("cannot write the northbound database", { error: String(error) });
          failing = true;
          this.#reader.distrust();
          pauseMs = retryMs;
        }
        await this.#pause(pauseMs, failing, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      stop();
      await following;
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

  /** Counts the configuration up, so that `hv_cfg` tells when every chassis has it. */
  #fence(): Operation[] {
    return [{ op: "mutate", table: "NB_Global", where: [], mutations: [["nb_cfg", "+=", 1]] }];
  }
}

/** The configuration's number as written, and as every chassis has it. */
export function fenceOf(db: OvsdbClient): { written: number; realised: number } {
  const [row] = db.replica.rows("NB_Global").values();
  return { written: Number(row?.nb_cfg ?? 0), realised: Number(row?.hv_cfg ?? 0) };
}
