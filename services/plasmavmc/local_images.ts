import { createHash } from "node:crypto";
import { fault, type Rng, toHex } from "@ultracloud/base";
import type { ReadAt } from "./domain/image_probe.ts";
import type { ImageEngine, ImageUpload } from "./image_engine.ts";

/** Chunks told to workers. */
const chunkBytes = 1024 * 1024;
const identity = /^[0-9a-f]{64}$/;

function readerOf(file: Deno.FsFile): ReadAt {
  return async (offset, length) => {
    const into = new Uint8Array(length);
    let filled = 0;
    await file.seek(offset, Deno.SeekMode.Start);
    while (filled < length) {
      const n = await file.read(into.subarray(filled));
      if (n === null) break;
      filled += n;
    }
    return into.subarray(0, filled);
  };
}

/**
 * Images as files of a directory, named by their content. Only one process may use the directory; `open` drops what an
 * upload that died left behind.
 */
export async function openLocalImages(
  o: { readonly dir: string },
  deps: { readonly rng: Rng },
): Promise<ImageEngine> {
  const incoming = `${o.dir}/incoming`;
  const content = `${o.dir}/content`;
  await Deno.remove(incoming, { recursive: true }).catch(() => {});
  await Deno.mkdir(incoming, { recursive: true, mode: 0o700 });
  await Deno.mkdir(content, { recursive: true, mode: 0o700 });
  const turns = new Map<string, Promise<unknown>>();

  const syncDir = async () => {
    using dir = await Deno.open(content);
    await dir.sync();
  };

  async function begin(): Promise<ImageUpload> {
    const path = `${incoming}/${toHex(deps.rng.fill(new Uint8Array(16)))}`;
    const file = await Deno.open(path, { createNew: true, read: true, write: true, mode: 0o600 });
    const hash = createHash("sha256");
    let bytes = 0;
    let sha256 = "";
    let open = true;
    let there = true;
    const close = () => {
      if (open) file.close();
      open = false;
    };
    return {
      get bytes() {
        return bytes;
      },
      async write(chunk) {
        hash.update(chunk);
        for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
        bytes += chunk.length;
      },
      async finish() {
        await file.syncData();
        sha256 = hash.digest("hex");
        return { sha256, bytes, readAt: readerOf(file) };
      },
      async keep() {
        close();
        await Deno.rename(path, `${content}/${sha256}`);
        there = false;
        await syncDir();
      },
      async discard() {
        close();
        if (there) await Deno.remove(path).catch(() => {});
        there = false;
      },
    };
  }

  return {
    begin,
    async *read(sha256, offset, signal) {
      if (!identity.test(sha256)) {
        throw fault(
          "invalid_argument",
          "invalid_sha256",
          "Cannot read an image by this identity: wanted 64 hex digits",
          {
            field: "sha256",
          },
        );
      }
      let file: Deno.FsFile;
      try {
        file = await Deno.open(`${content}/${sha256}`);
      } catch (cause) {
        if (!(cause instanceof Deno.errors.NotFound)) throw cause;
        throw fault("not_found", "image_content_not_found", `Cannot find image content ${sha256}`, { cause });
      }
      using _ = file;
      const size = (await file.stat()).size;
      if (offset < 0 || offset > size) {
        throw fault("out_of_range", "offset_out_of_range", `Cannot read from ${offset}: the image has ${size} bytes`, {
          field: "offset",
        });
      }
      await file.seek(offset, Deno.SeekMode.Start);
      for (;;) {
        signal.throwIfAborted();
        const chunk = new Uint8Array(chunkBytes);
        const n = await file.read(chunk);
        if (n === null) return;
        yield chunk.subarray(0, n);
      }
    },
    async remove(sha256) {
      if (!identity.test(sha256)) return;
      await Deno.remove(`${content}/${sha256}`).catch((error) => {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      });
    },
    async list() {
      const names: string[] = [];
      for await (const entry of Deno.readDir(content)) if (identity.test(entry.name)) names.push(entry.name);
      return names;
    },
    async alone(sha256, work) {
      const before = turns.get(sha256) ?? Promise.resolve();
      const turn = before.then(work, work);
      const settled = turn.catch(() => {});
      turns.set(sha256, settled);
      try {
        return await turn;
      } finally {
        if (turns.get(sha256) === settled) turns.delete(sha256);
      }
    },
  };
}
