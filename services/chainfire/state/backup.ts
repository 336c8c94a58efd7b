import { assert } from "@ultracloud/base";
import type { Database, Row, SqlParameter } from "@ultracloud/sqlite";
import { Reader, Writer } from "./bytes.ts";
import type { Counters } from "./schema.ts";

/** First bytes of a backup; the last one is its version. */
export const backupMagic: Uint8Array = new Uint8Array([...new TextEncoder().encode("chainfire"), 0, 1]);
/** Rows in one piece: a few milliseconds, and well below what one message may hold. */
const rowsPerPiece = 256;
const pieceBytesMax = 1 << 20;
/** Pieces by their first byte. */
const kinds = { head: 1, leases: 2, quotas: 3, history: 4 } as const;

/**
 * Pieces of a backup: the state as of this call, read in steps between which writes go on. History is append-only, so
 * the moment's rows stay as they are while nobody sweeps; leases and quotas are small and read at once.
 */
export function backupPieces(db: Database, counters: Readonly<Counters>): Iterable<Uint8Array<ArrayBuffer>> {
  const small = smallPieces(db, counters);
  const history = historyPieces(db, counters.revision);
  return (function* () {
    yield* small;
    yield* history;
  })();
}

function smallPieces(db: Database, { revision, compactRevision, clockMs }: Readonly<Counters>) {
  const head = new Writer().byte(kinds.head).uint(revision).uint(compactRevision).uint(clockMs).finish();
  const leases = db.all<{ id: number | bigint; ttl_ms: number; deadline_ms: number }>(
    "SELECT id, ttl_ms, deadline_ms FROM lease ORDER BY id",
  );
  const quotas = db.all<Row>("SELECT * FROM quota ORDER BY namespace");
  const w = new Writer().byte(kinds.leases);
  w.list(leases, (row) => w.uint64(BigInt(row.id)).uint(row.ttl_ms).uint(row.deadline_ms));
  const q = new Writer().byte(kinds.quotas);
  q.list(quotas, (row) => {
    q.bytes(row.namespace as Uint8Array);
    for (const column of quotaColumns.slice(1)) q.uint(row[column] as number);
  });
  return [head, w.finish(), q.finish()];
}

function* historyPieces(db: Database, revision: number): Generator<Uint8Array<ArrayBuffer>> {
  for (let after = 0;;) {
    const rows = db.all<Row>(
      "SELECT id, revision, key, value, create_revision, version, lease FROM history" +
        " WHERE id > ? AND revision <= ? ORDER BY id LIMIT ?",
      after,
      revision,
      rowsPerPiece,
    );
    let piece = new Writer(1 << 16).byte(kinds.history);
    for (const row of rows) {
      if (piece.length >= pieceBytesMax) {
        yield piece.finish();
        piece = new Writer(1 << 16).byte(kinds.history);
      }
      writeHistory(piece, row);
      after = row.id as number;
    }
    if (piece.length > 1) yield piece.finish();
    if (rows.length < rowsPerPiece) return;
  }
}

const quotaColumns = ["namespace", "bytes_max", "keys_max", "leases_max", "watches_max", "writes_max"] as const;

function writeHistory(w: Writer, row: Row): void {
  w.uint(row.id as number).uint(row.revision as number).bytes(row.key as Uint8Array).flag(row.value !== null);
  if (row.value !== null) w.bytes(row.value as Uint8Array);
  w.uint(row.create_revision as number).uint(row.version as number).uint64(BigInt(row.lease as number | bigint));
}

/**
 * Takes a backup piece by piece into empty tables, inside the caller's transaction. `finish` completes what is derived
 * and answers the revision the store has afterwards: `bump` above that of the backup, everything before compacted, so
 * that whoever watched or cached an older store notices.
 */
export class BackupReader {
  readonly #db: Database;
  #head: { revision: number; clockMs: number } | undefined;

  constructor(db: Database) {
    this.#db = db;
    for (const name of ["history", "live", "lease", "call", "session", "session_answer", "quota", "alarm", "member"]) {
      db.run(`DELETE FROM ${name}`);
    }
    for (const name of ["hash_report", "promotion"]) db.run(`DELETE FROM ${name}`);
    db.run("DELETE FROM meta");
  }

  take(bytes: Uint8Array): void {
    const r = new Reader(bytes);
    const kind = r.byte();
    switch (kind) {
      case kinds.head: {
        const revision = r.uint();
        r.uint();
        this.#head = { revision, clockMs: r.uint() };
        return;
      }
      case kinds.leases:
        r.list(() => this.#insert("lease", ["id", "ttl_ms", "deadline_ms"], [r.uint64(), r.uint(), r.uint()]));
        return;
      case kinds.quotas:
        r.list(() =>
          this.#insert("quota", quotaColumns, [r.bytes(), r.uint(), r.uint(), r.uint(), r.uint(), r.uint()])
        );
        return;
      case kinds.history:
        while (!r.done) {
          this.#insert("history", ["id", "revision", "key", "value", "create_revision", "version", "lease"], [
            r.uint(),
            r.uint(),
            r.bytes(),
            r.flag() ? r.bytes() : null,
            r.uint(),
            r.uint(),
            r.uint64(),
          ]);
        }
        return;
      default:
        assert(false, `A piece of a backup cannot be of kind ${kind}`);
    }
  }

  #insert(table: string, columns: readonly string[], values: readonly SqlParameter[]): void {
    this.#db.run(`INSERT INTO ${table}(${columns}) VALUES(${columns.map(() => "?")})`, ...values);
  }

  finish(bump: number, applied: number): number {
    assert(this.#head !== undefined, "A backup must begin with its head");
    const db = this.#db;
    db.run(
      "INSERT INTO live(key, id, lease) SELECT key, id, lease FROM history" +
        " WHERE value IS NOT NULL AND id IN (SELECT MAX(id) FROM history GROUP BY key)",
    );
    const revision = this.#head.revision + bump;
    const counters = { applied, revision, compactRevision: revision, clockMs: this.#head.clockMs };
    for (const [name, value] of Object.entries(counters)) {
      db.run("INSERT INTO meta(name, value) VALUES(?, ?)", name, value);
    }
    return revision;
  }
}
