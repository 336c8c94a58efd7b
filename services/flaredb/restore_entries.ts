import { fromBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { fault } from "@ultracloud/base";
import { type ImportEntry, ImportEntrySchema } from "@ultracloud/proto/flaredb/v1";

const readBytes = 1024 * 1024;
/** Bytes of a length before a message. */
const lengthBytesMax = 5;

/** The entries of an incremental backup, one after the other, without holding more than a few. */
export function* readEntries(path: string): Generator<ImportEntry> {
  using file = Deno.openSync(path);
  let held = new Uint8Array(0);
  let ended = false;
  const more = () => {
    const chunk = new Uint8Array(readBytes);
    const n = file.readSync(chunk);
    if (n === null) {
      ended = true;
      return;
    }
    const joined = new Uint8Array(held.length + n);
    joined.set(held);
    joined.set(chunk.subarray(0, n), held.length);
    held = joined;
  };
  for (let at = 0;;) {
    while (!ended && held.length - at < lengthBytesMax) {
      held = held.subarray(at);
      at = 0;
      more();
    }
    if (at === held.length) return;
    const reader = new BinaryReader(held.subarray(at, at + lengthBytesMax));
    const length = reader.uint32();
    const start = at + reader.pos;
    if (held.length - start < length) {
      if (ended) throw fault("data_loss", "backup_damaged", "Cannot use the backup: its last entry is cut off");
      held = held.subarray(at);
      at = 0;
      more();
      continue;
    }
    yield fromBinary(ImportEntrySchema, held.subarray(start, start + length));
    at = start + length;
  }
}
