import type { Database } from "@ultracloud/sqlite";
import type { Counters } from "./schema.ts";

/** Rows looked at in one step: a few milliseconds. */
const sweepRows = 500;

/**
 * Removes one step of what compaction made unreachable: rows superseded at or below the compaction's revision, and
 * deletions below it. Answers whether there is more. Replicas may sweep at different times, as nothing that can be
 * read changes.
 *
 * Rows are taken in the order they were written and each removes the older rows of its key: so a deletion never goes
 * before what it deleted, and nothing comes back to life.
 */
export function sweep(db: Database, counters: Counters): boolean {
  const rows = db.all<{ id: number; revision: number; key: Uint8Array; deleted: number }>(
    "SELECT id, revision, key, value IS NULL AS deleted FROM history WHERE id > ? AND revision <= ? ORDER BY id LIMIT ?",
    counters.sweptId,
    counters.compactRevision,
    sweepRows,
  );
  if (rows.length === 0) return false;
  for (const { id, revision, key, deleted } of rows) {
    db.run("DELETE FROM history WHERE key = ? AND revision < ?", key, revision);
    // A watch may start at the compaction's revision itself and must see a deletion there.
    if (deleted === 1 && revision < counters.compactRevision) db.run("DELETE FROM history WHERE id = ?", id);
  }
  // Deletions at the revision itself are looked at again by the next compaction.
  const last = rows.findLast((row) => row.revision < counters.compactRevision);
  const before = counters.sweptId;
  if (last) counters.sweptId = last.id;
  return rows.length === sweepRows && counters.sweptId > before;
}
