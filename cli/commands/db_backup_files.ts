import type { MessageInitShape } from "@bufbuild/protobuf";
import { sizeDelimitedDecodeStream, sizeDelimitedEncode } from "@bufbuild/protobuf/wire";
import { fault } from "@ultracloud/base";
import {
  type BackupPart,
  BackupPartSchema,
  type RestoreRequestSchema,
  type RestoreTargetSchema,
} from "@ultracloud/proto/flaredb/v1";

/** Writes the parts of a backup; the file appears whole, or not at all. */
export async function writeBackupFile(
  path: string,
  parts: AsyncIterable<BackupPart>,
): Promise<{ readonly bytes: bigint; readonly index: bigint }> {
  const next = `${path}.part`;
  let index = 0n, bytes: bigint | undefined;
  try {
    using file = await Deno.open(next, { write: true, create: true, truncate: true, mode: 0o600 });
    for await (const part of parts) {
      if (part.part.case === "header") index = part.part.value.index;
      if (part.part.case === "footer") bytes = part.part.value.bytes;
      const data = sizeDelimitedEncode(BackupPartSchema, part);
      for (let at = 0; at < data.length;) at += await file.write(data.subarray(at));
    }
    if (bytes === undefined) throw fault("data_loss", "backup_cut", "Cannot keep the backup as it ended too early");
    await file.syncData();
    await Deno.rename(next, path);
    return { bytes, index };
  } catch (error) {
    await Deno.remove(next).catch(() => {});
    throw error;
  }
}

/** What a restore sends: the target, then the parts of every file in order. */
export async function* readBackupFiles(
  target: MessageInitShape<typeof RestoreTargetSchema>,
  paths: readonly string[],
): AsyncGenerator<MessageInitShape<typeof RestoreRequestSchema>> {
  yield { part: { case: "target", value: target } };
  for (const path of paths) {
    using file = await Deno.open(path);
    try {
      for await (const value of sizeDelimitedDecodeStream(BackupPartSchema, chunks(file))) {
        yield { part: { case: "backup", value } };
      }
    } catch (cause) {
      throw fault("data_loss", "backup_damaged", `Cannot read ${path}: it is no whole backup`, { cause });
    }
  }
}

async function* chunks(file: Deno.FsFile): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (;;) {
    const chunk = new Uint8Array(256 * 1024);
    const n = await file.read(chunk);
    if (n === null) return;
    yield chunk.subarray(0, n);
  }
}
