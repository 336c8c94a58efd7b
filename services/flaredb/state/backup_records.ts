import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { BackupRecord, BackupRecordSchema } from "@ultracloud/proto/flaredb/v1";
import { BackupKind } from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";
import { backupsMax } from "../domain/bounds.ts";

interface StoredBackup {
  readonly idx: number;
  readonly kind: number;
  readonly time_ms: number;
  readonly bytes: number;
  readonly sha256: Uint8Array<ArrayBuffer>;
}

/** Which backups were taken; the files are elsewhere. */
export class BackupRecords {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  add({ kind, index, bytes, sha256 }: BackupRecord, timeMs: number): void {
    this.#db.run(
      "INSERT OR REPLACE INTO _uc_backup VALUES(?,?,?,?,?)",
      Number(index),
      kind,
      timeMs,
      Number(bytes),
      sha256,
    );
    this.#db.run(
      `DELETE FROM _uc_backup WHERE (time_ms, idx, kind) NOT IN
        (SELECT time_ms, idx, kind FROM _uc_backup ORDER BY time_ms DESC, idx DESC, kind LIMIT ${backupsMax})`,
    );
  }

  list(): MessageInitShape<typeof BackupRecordSchema>[] {
    return this.#db.all<StoredBackup>("SELECT * FROM _uc_backup ORDER BY time_ms, idx, kind").map((row) => ({
      kind: row.kind,
      index: BigInt(row.idx),
      bytes: BigInt(row.bytes),
      sha256: row.sha256,
      time: timestampFromMs(row.time_ms),
    }));
  }

  /** Replicated time of the newest full backup; undefined when there is none. */
  newestFullMs(): number | undefined {
    const row = this.#db.get<{ at: number | null }>(
      "SELECT max(time_ms) AS at FROM _uc_backup WHERE kind = ?",
      BackupKind.FULL,
    );
    return row?.at ?? undefined;
  }
}
