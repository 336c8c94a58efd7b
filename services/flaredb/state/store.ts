import { backupDatabase, type Database, openDatabase } from "@ultracloud/sqlite";

/**
 * Commits between two checkpoints of the group's own: SQLite's default of 4 MiB would write hot pages back, and sync
 * twice, many times a second under load. The write-ahead log then takes this much disk at most, and memory nowhere.
 */
const autoCheckpointPages = 8_192;

/** Opens or makes the state of a database at `path`. */
export function openContent(path: string): Database {
  return openDatabase(path, { autoCheckpointPages });
}

/** The whole content, readable by a file and by memory alike. */
export function contentOf(db: Database): Uint8Array {
  const bytes = db.serialize().slice();
  // Bytes 18 and 19 of the header say that there is a write-ahead log beside; a copy has none.
  bytes[18] = 1;
  bytes[19] = 1;
  return bytes;
}

/**
 * Opens a database with this content in the place of the one at `path`, which must be closed: closing has written its
 * write-ahead log back, so that the old content or the new one is there whenever the process ends.
 */
export function replaceContent(path: string, bytes: Uint8Array): Database {
  if (path === ":memory:") {
    const db = openContent(path);
    (db.raw as unknown as { deserialize(bytes: Uint8Array): void }).deserialize(bytes);
    return db;
  }
  const next = `${path}.new`;
  {
    using file = Deno.openSync(next, { write: true, create: true, truncate: true });
    for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
    file.syncDataSync();
  }
  return openInPlace(path);
}

/**
 * Opens `<path>.new` in the place of the database at `path`. Where somebody still reads the old one, a backup for one,
 * its write-ahead log is left behind and must not be taken for the new one's.
 */
function openInPlace(path: string): Database {
  for (const suffix of ["-wal", "-shm"]) removeIfThere(path + suffix);
  Deno.renameSync(`${path}.new`, path);
  return openContent(path);
}

/**
 * Copies the database to a new file at `to` as of one moment, while it goes on, without passing it through memory. Answers
 * the index the copy is at.
 */
export async function copyContent(db: Database, path: string, to: string): Promise<number> {
  if (path === ":memory:") Deno.writeFileSync(to, contentOf(db));
  else {
    await backupDatabase(path, to);
    // As in `contentOf`: a copy has no write-ahead log beside.
    using file = Deno.openSync(to, { write: true });
    file.seekSync(18, Deno.SeekMode.Start);
    file.writeSync(new Uint8Array([1, 1]));
  }
  using copy = openDatabase(to, { readOnly: true });
  return copy.get<{ value: number }>("SELECT value FROM _uc_meta WHERE key='applied_index'")?.value ?? 0;
}

/** Puts a copy of the file beside the database at `path`, for `replaceByStaged`. */
export async function stageContent(path: string, from: string): Promise<void> {
  if (path === ":memory:") return;
  await Deno.copyFile(from, `${path}.new`);
  using file = await Deno.open(`${path}.new`, { write: true });
  await file.syncData();
}

/** Opens what was staged from the file in the place of the database at `path`, which must be closed. */
export function replaceByStaged(path: string, from: string): Database {
  if (path === ":memory:") return replaceContent(path, Deno.readFileSync(from));
  return openInPlace(path);
}

/** Removes the database and what lies beside it; nothing is left to do when it is gone. */
export function removeFiles(path: string): void {
  for (const suffix of ["-wal", "-shm", ".new", ""]) removeIfThere(path + suffix);
}

function removeIfThere(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
