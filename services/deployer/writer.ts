import { fault } from "@ultracloud/base";
import { type Platform, type TransactOptions, Tx } from "@ultracloud/platform";
import { rowKeys, type WriterRow } from "./kinds.ts";

/**
 * The one replica that may change anything. Leadership comes from a chainfire lease; what it commits is fenced in the
 * store itself: each writer has an epoch of its own, every transaction reads the row that holds it, so a writer that
 * was replaced, paused or cut off commits nothing any more, whatever it believes.
 */
export class Writer {
  readonly #platform: Platform;
  readonly #self: Omit<WriterRow, "epoch">;
  #epoch: number | undefined;

  constructor(platform: Platform, self: Omit<WriterRow, "epoch">) {
    this.#platform = platform;
    this.#self = self;
  }

  get instance(): string {
    return this.#self.instance;
  }

  /** True while this replica believes that it writes. */
  get writing(): boolean {
    return this.#epoch !== undefined;
  }

  /** Throws `not_leader` with the writer's URL where another replica writes. */
  async expectWriting(): Promise<void> {
    const row = await this.current();
    if (this.#epoch === undefined || row?.epoch !== this.#epoch) throw notWriter(row);
  }

  /** Takes over: from here on the writer before commits nothing. */
  async take(signal: AbortSignal): Promise<void> {
    this.#epoch = await this.#platform.transact(async (tx) => {
      const epoch = ((await tx.row<WriterRow>(rowKeys.writer))?.epoch ?? 0) + 1;
      tx.putRow(rowKeys.writer, { ...this.#self, epoch } satisfies WriterRow);
      return epoch;
    }, { signal });
    this.#platform.log.info("this replica writes", { epoch: this.#epoch });
  }

  release(): void {
    this.#epoch = undefined;
  }

  /** Who writes; undefined before anybody ever did. */
  async current(): Promise<WriterRow | undefined> {
    return await new Tx(this.#platform.kv, this.#platform).row<WriterRow>(rowKeys.writer);
  }

  /** A transaction that commits only while this replica is the writer; `not_leader` with the writer's URL otherwise. */
  async change<T>(fn: (tx: Tx) => Promise<T> | T, o: TransactOptions<T> = {}): Promise<T> {
    return await this.#platform.transact(async (tx) => {
      const row = await tx.row<WriterRow>(rowKeys.writer);
      if (this.#epoch === undefined || row?.epoch !== this.#epoch) throw notWriter(row);
      return await fn(tx);
    }, o);
  }
}

function notWriter(row: WriterRow | undefined) {
  return fault(
    "unavailable",
    "not_leader",
    `Cannot change anything here as ${row ? `${row.instance} writes` : "nobody writes yet"}: wanted the writer`,
    { retryAfterMs: 500, ...(row ? { leaderHint: row.url } : {}) },
  );
}
