import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  BackupHeaderSchema,
  BackupKind,
  type BackupPart,
  BackupPartSchema,
  ImportEntrySchema,
} from "@ultracloud/proto/flaredb/v1";
import { type Database, openDatabase } from "@ultracloud/sqlite";
import { sizeDelimitedEncode } from "@bufbuild/protobuf/wire";
import { createHash } from "node:crypto";
import type { DatabaseMachine } from "./state/database_machine.ts";

/** Format of what follows a header. */
export const backupFormat = 1;
const chunkBytes = 512 * 1024;

type Header = MessageInitShape<typeof BackupHeaderSchema>;

/** Header, chunks and the footer that vouches for both. */
async function* parts(
  init: Header,
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): AsyncGenerator<BackupPart> {
  const header = create(BackupHeaderSchema, { format: backupFormat, ...init });
  const hash = createHash("sha256").update(toBinary(BackupHeaderSchema, header));
  let bytes = 0;
  yield create(BackupPartSchema, { part: { case: "header", value: header } });
  for await (const chunk of chunks) {
    hash.update(chunk);
    bytes += chunk.length;
    yield create(BackupPartSchema, { part: { case: "chunk", value: chunk as Uint8Array<ArrayBuffer> } });
  }
  const value = { bytes: BigInt(bytes), sha256: new Uint8Array(hash.digest()) };
  yield create(BackupPartSchema, { part: { case: "footer", value } });
}

/** The last index and time of a copy. */
export function positionOf(db: Database): { readonly index: number; readonly timeMs: number } {
  const meta = (key: string) => db.get<{ value: number }>("SELECT value FROM _uc_meta WHERE key = ?", key)?.value ?? 0;
  return { index: meta("applied_index") + meta("index_offset"), timeMs: meta("time_ms") };
}

/** The database file at one moment: copied aside by a worker, then read from there. */
export async function* fullBackup(
  options: { readonly database: string; readonly path: string },
  machine: DatabaseMachine,
  signal: AbortSignal,
): AsyncGenerator<BackupPart> {
  const { database, path } = options;
  await machine.copyTo(path);
  try {
    const position = (() => {
      using copy = openDatabase(path, { readOnly: true });
      return positionOf(copy);
    })();
    using file = await Deno.open(path);
    yield* parts({
      kind: BackupKind.FULL,
      database,
      index: BigInt(position.index),
      time: timestampFromMs(position.timeMs),
    }, fileChunks(file, signal));
  } finally {
    await Deno.remove(path);
  }
}

async function* fileChunks(file: Deno.FsFile, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for (;;) {
    signal.throwIfAborted();
    const chunk = new Uint8Array(chunkBytes);
    const n = await file.read(chunk);
    if (n === null) return;
    yield chunk.subarray(0, n);
  }
}

/** The log's entries after an index, up to now. */
export async function* incrementalBackup(
  options: { readonly database: string; readonly after: number },
  machine: DatabaseMachine,
  signal: AbortSignal,
): AsyncGenerator<BackupPart> {
  const { database, after } = options;
  const { archive } = machine.parts;
  // Also the check that they are held.
  const first = archive.read(after, machine.index);
  const { index, timeMs } = machine;
  const entries = function* (): Generator<Uint8Array> {
    for (let rows = first; rows.length > 0; rows = archive.read(rows.at(-1)!.idx, index)) {
      signal.throwIfAborted();
      for (const { idx, data } of rows) {
        const entry = create(ImportEntrySchema, { index: BigInt(idx), data: data as Uint8Array<ArrayBuffer> });
        yield sizeDelimitedEncode(ImportEntrySchema, entry);
      }
    }
  };
  yield* parts({
    kind: BackupKind.INCREMENTAL,
    database,
    afterIndex: BigInt(after),
    index: BigInt(index),
    time: timestampFromMs(timeMs),
  }, entries());
}
