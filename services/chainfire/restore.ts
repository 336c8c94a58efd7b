import { type Disk, fault, toHex } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { configurationOf, encodeConfiguration } from "@ultracloud/raft";
import type { Database } from "@ultracloud/sqlite";
import { openWal } from "@ultracloud/wal";
import { createHash, type Hash } from "node:crypto";
import { backupMagic, BackupReader } from "./state/backup.ts";
import { equalBytes } from "@ultracloud/base";

export interface RestoreOptions {
  readonly stateDir: string;
  /** The one Raft group, and who founds it anew. */
  readonly group: number;
  readonly voters: readonly number[];
  /** How far above the backup's revision the store goes on. */
  readonly revisionBump: number;
}

/** What an operator puts into the state directory of every founding member of a new cluster. */
const fileName = "restore.snapshot";
const digestBytes = 32;
/** Larger pieces are no backup's. */
const pieceBytesMax = 64 * 2 ** 20;
/** The restored state counts as the effect of this entry, so that nobody ever replays the log from before it. */
const restoredIndex = 1;

/**
 * Founds the member on the backup that lies in its state directory, if one does. Safe to repeat when it was
 * interrupted; refused once the member has a log of its own.
 */
export async function restoreIfAsked(
  options: RestoreOptions,
  deps: { readonly db: Database; readonly disk: Disk; readonly log: Logger; readonly onFatal: (error: Error) => void },
): Promise<void> {
  const path = `${options.stateDir}/${fileName}`;
  const file = await openIfThere(path);
  if (!file) return;
  let revision: number;
  {
    using _closing = file;
    await verify(file);
    const wal = openWal({ dir: `${options.stateDir}/raft/wal` }, deps);
    await using _log = { [Symbol.asyncDispose]: () => wal.close() };
    await wal.ready();
    const found = wal.index(options.group);
    if (found.hardState.term > 1 || found.lastIndex() > restoredIndex) {
      throw fault(
        "failed_precondition",
        "restore_refused",
        `Cannot restore ${path} as this member has a log already: wanted a state directory with nothing else in it`,
      );
    }
    revision = await load(file, options.revisionBump, deps.db);
    const configuration = encodeConfiguration(configurationOf([...options.voters].sort((a, b) => a - b)));
    // The log begins behind the backup: a member that joins later gets a snapshot and never a part of the past.
    await new Promise<void>((resolve, reject) =>
      wal.append({
        group: options.group,
        hardState: { term: 1, vote: 0, commit: restoredIndex },
        base: { to: { index: restoredIndex, term: 1, configuration }, reset: true },
      }, (error) => error ? reject(error) : resolve())
    );
  }
  await Deno.rename(path, `${options.stateDir}/restored-${revision}.snapshot`);
  deps.disk.syncDir(options.stateDir);
  deps.log.info("restored a backup", { revision, voters: options.voters });
}

async function openIfThere(path: string): Promise<Deno.FsFile | undefined> {
  try {
    return await Deno.open(path, { read: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function damaged(what: string) {
  return fault("data_loss", "backup_damaged", `Cannot restore ${fileName}: ${what}`);
}

/** Checks the whole file against the digest at its end, before anything is changed. */
async function verify(file: Deno.FsFile): Promise<void> {
  const { size } = await file.stat();
  if (size < backupMagic.length + digestBytes) throw damaged(`it has ${size} bytes only`);
  const hash = createHash("sha256");
  const chunk = new Uint8Array(1 << 20);
  let head: Uint8Array | undefined;
  for (let left = size - digestBytes; left > 0;) {
    const n = await file.read(chunk.subarray(0, Math.min(left, chunk.length)));
    if (n === null) throw damaged("it became shorter while it was read");
    head ??= chunk.slice(0, backupMagic.length);
    hash.update(chunk.subarray(0, n));
    left -= n;
  }
  if (!equalBytes(head!, backupMagic)) throw damaged("it does not begin as a backup of this version");
  checkDigest(hash, await readExactly(file, digestBytes));
}

function checkDigest(hash: Hash, said: Uint8Array): void {
  const actual = hash.digest();
  if (!equalBytes(new Uint8Array(actual), said)) {
    throw damaged(`its digest is ${toHex(new Uint8Array(actual))}, wanted ${toHex(said)}`);
  }
}

async function readExactly(file: Deno.FsFile, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const n = await file.read(bytes.subarray(at));
    if (n === null) throw damaged("it ends early");
    at += n;
  }
  return bytes;
}

/** Replaces the state in one transaction; answers the revision it has then. */
async function load(file: Deno.FsFile, bump: number, db: Database): Promise<number> {
  await file.seek(backupMagic.length, Deno.SeekMode.Start);
  db.begin();
  try {
    const reader = new BackupReader(db);
    for (;;) {
      const length = new DataView((await readExactly(file, 4)).buffer).getUint32(0, true);
      if (length === 0) break;
      if (length > pieceBytesMax) throw damaged(`a piece has ${length} bytes`);
      reader.take(await readExactly(file, length));
    }
    const revision = reader.finish(bump, restoredIndex);
    db.commit();
    db.checkpoint();
    return revision;
  } catch (error) {
    // Nothing is committed: closing the database undoes it.
    db.close();
    throw error;
  }
}
