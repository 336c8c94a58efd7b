import { assert } from "@ultracloud/base";
import { breathe } from "@ultracloud/replica";

/**
 * Writes pieces into a new file, each behind its length, so that they need not be in memory together. Others have their
 * turn between two pieces.
 */
export async function writePieces(path: string, pieces: Iterable<Uint8Array>): Promise<void> {
  using file = Deno.openSync(path, { write: true, createNew: true });
  const put = (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
  };
  for (const piece of pieces) {
    await breathe();
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, piece.length);
    put(length);
    put(piece);
  }
}

/** The pieces of a file of `writePieces`, one after the other. */
export function* readPieces(path: string): Generator<Uint8Array> {
  using file = Deno.openSync(path, { read: true });
  /** Fills `bytes`; false at the end of the file. */
  const take = (bytes: Uint8Array): boolean => {
    let at = 0;
    while (at < bytes.length) {
      const n = file.readSync(bytes.subarray(at));
      if (n === null) break;
      at += n;
    }
    assert(at === 0 || at === bytes.length, "A dump must not end inside a piece");
    return at === bytes.length;
  };
  for (;;) {
    const length = new Uint8Array(4);
    if (!take(length)) return;
    const piece = new Uint8Array(new DataView(length.buffer).getUint32(0));
    assert(take(piece), "A dump must not end before a piece");
    yield piece;
  }
}
