import type { Database } from "@ultracloud/sqlite";
import { rejections } from "../errors.ts";
import { hashChange } from "./rolling_hash.ts";
import type { Counters } from "./schema.ts";

/** Rows hashed in one step: about a millisecond. */
const rowsPerStep = 500;

interface Row {
  readonly id: number;
  readonly revision: number;
  readonly key: Uint8Array;
  readonly value: Uint8Array | null;
  readonly create_revision: number;
  readonly version: number;
  readonly lease: number | bigint;
}

/**
 * Hash of what can be read up to a revision, from the rows as they are on disk, in steps between which writes go on.
 * What compaction made unreachable does not count, so that members which swept at different times have the same.
 */
export class KvHash {
  readonly revision: number;
  readonly compactRevision: number;
  readonly #db: Database;
  readonly #counters: Counters;
  #after = 0;
  #hash = 0;

  constructor(db: Database, counters: Counters, revision: number) {
    if (revision > counters.revision) throw rejections.futureRevision(revision, counters.revision);
    this.#db = db;
    this.#counters = counters;
    this.revision = revision === 0 ? counters.revision : revision;
    this.compactRevision = counters.compactRevision;
    if (this.revision < this.compactRevision) throw rejections.compacted(this.revision, this.compactRevision);
  }

  /** One step; the hash once it is complete. Rejects when a compaction came in between. */
  step(): number | undefined {
    const { compactRevision } = this.#counters;
    if (compactRevision !== this.compactRevision) throw rejections.compacted(this.revision, compactRevision);
    const rows = this.#db.all<Row>(
      "SELECT id, revision, key, value, create_revision, version, lease FROM history h WHERE id > ? AND revision <= ?" +
        " AND (revision > ? OR (value IS NOT NULL AND NOT EXISTS (" +
        "SELECT 1 FROM history n WHERE n.key = h.key AND n.revision > h.revision AND n.revision <= ?)))" +
        " ORDER BY id LIMIT ?",
      this.#after,
      this.revision,
      compactRevision,
      compactRevision,
      rowsPerStep,
    );
    for (const row of rows) {
      const kv = {
        key: row.key,
        value: row.value ?? row.key,
        createRevision: row.create_revision,
        modRevision: row.revision,
        version: row.version,
        lease: BigInt(row.lease),
      };
      this.#hash = hashChange(this.#hash, kv, row.value === null);
    }
    this.#after = rows.at(-1)?.id ?? this.#after;
    return rows.length < rowsPerStep ? this.#hash : undefined;
  }
}
