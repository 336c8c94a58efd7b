import { fault } from "@ultracloud/base";
import type { Database } from "@ultracloud/sqlite";
import { archiveBytesMax } from "../domain/bounds.ts";
import type { Meta } from "./schema.ts";

/** An entry as the archive keeps it. */
export interface ArchivedEntry {
  readonly idx: number;
  /** Replicated time after it. */
  readonly time_ms: number;
  readonly data: Uint8Array;
}

const rowBytes = 32;
const chunkRows = 256;
const pruneTo = 0.9;

/** Entries of the log, kept in the database itself while that is switched on: what incremental backups are made of. */
export class Archive {
  readonly #db: Database;
  readonly #meta: Meta;
  #on = false;
  #bytes = 0;
  #cut = 0;

  constructor(db: Database, meta: Meta) {
    this.#db = db;
    this.#meta = meta;
  }

  load(): void {
    const row = this.#db.get<{ b: number }>(
      `SELECT coalesce(sum(${rowBytes} + length(data)), 0) AS b FROM _uc_archive`,
    )!;
    this.#bytes = row.b;
    this.#on = this.#meta.get("archive") !== 0;
    this.#cut = this.#meta.get("archive_cut");
  }

  get on(): boolean {
    return this.#on;
  }

  switch(on: boolean, index: number): void {
    if (on === this.#on) return;
    this.#on = on;
    this.#meta.set("archive", on ? 1 : 0);
    this.#db.run("DELETE FROM _uc_archive");
    this.#bytes = 0;
    this.#cut = index;
    this.#meta.set("archive_cut", index);
  }

  add(index: number, timeMs: number, data: Uint8Array): void {
    this.#db.run("INSERT INTO _uc_archive VALUES(?,?,?)", index, timeMs, data);
    this.#bytes += rowBytes + data.length;
    if (this.#bytes > archiveBytesMax) this.#prune();
  }

  #prune(): void {
    const rows = this.#db.all<{ idx: number; b: number }>(
      `SELECT idx, ${rowBytes} + length(data) AS b FROM _uc_archive ORDER BY idx`,
    );
    for (const { idx, b } of rows) {
      if (this.#bytes <= archiveBytesMax * pruneTo) break;
      this.#bytes -= b;
      this.#cut = idx;
    }
    this.#db.run("DELETE FROM _uc_archive WHERE idx <= ?", this.#cut);
    this.#meta.set("archive_cut", this.#cut);
  }

  /**
   * The next entries after index `after` up to `to`; none when there are no more.
   *
   * @throws {Fault} `not_archived`, or `archive_cut` when entries after `after` are no longer held.
   */
  read(after: number, to: number): ArchivedEntry[] {
    if (!this.#on) {
      throw fault(
        "failed_precondition",
        "not_archived",
        "Cannot take an incremental backup: wanted the setting archive, and a full backup since",
      );
    }
    if (after < this.#cut) {
      throw fault(
        "out_of_range",
        "archive_cut",
        `Cannot take what came after index ${after} as entries up to ${this.#cut} are not held: wanted a full backup`,
      );
    }
    return this.#db.all<ArchivedEntry>(
      `SELECT idx, time_ms, data FROM _uc_archive WHERE idx > ? AND idx <= ? ORDER BY idx LIMIT ${chunkRows}`,
      after,
      to,
    );
  }
}
