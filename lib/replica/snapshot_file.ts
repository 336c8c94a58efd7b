import type { Disk } from "@ultracloud/base";
import { toHex } from "@ultracloud/base";
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers";

/** The state inside a snapshot as a file: how it lies here, and how it travels. */
export interface SnapshotFile {
  readonly path: string;
  readonly bytes: number;
  /** Over all of it, in lower-case hex. */
  readonly sha256: string;
}

/** What is read, hashed, sent and written at once: the memory that a snapshot of any size costs. */
export const snapshotChunkBytes = 2 ** 20;

/** A state machine that deals in bytes gives and gets at most this many. */
export const memoryBytesMax = 2 ** 30;

/** Other tasks of the process get a turn between two chunks. */
export const breathe = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

/** Reads a whole file in pieces, letting others run in between; the pieces share one buffer. */
export async function* chunksOf(disk: Disk, path: string): AsyncGenerator<Uint8Array> {
  const file = disk.open(path, { create: false });
  try {
    const buffer = new Uint8Array(snapshotChunkBytes);
    for (let at = 0;;) {
      const n = file.readAt(buffer, at);
      if (n === 0) return;
      yield buffer.subarray(0, n);
      at += n;
      await breathe();
    }
  } finally {
    file.close();
  }
}

/** The file as it is now, with its digest. */
export async function describeFile(disk: Disk, path: string): Promise<SnapshotFile> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of chunksOf(disk, path)) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { path, bytes, sha256: toHex(new Uint8Array(hash.digest())) };
}

/** Makes the file hold `bytes`, for states that fit into memory. */
export function writeWhole(disk: Disk, path: string, bytes: Uint8Array): void {
  const file = disk.open(path, { create: true });
  try {
    file.truncate(0);
    file.writeAt(bytes, 0);
  } finally {
    file.close();
  }
}

/** All of a file that fits into memory. */
export function readWhole(disk: Disk, path: string): Uint8Array {
  const file = disk.open(path, { create: false });
  try {
    const bytes = new Uint8Array(file.size());
    for (let at = 0; at < bytes.length;) {
      const n = file.readAt(bytes.subarray(at), at);
      if (n === 0) return bytes.subarray(0, at);
      at += n;
    }
    return bytes;
  } finally {
    file.close();
  }
}

/** Removes the file if it is there. */
export function removeIfThere(disk: Disk, path: string): void {
  try {
    disk.remove(path);
  } catch (error) {
    const absent = error instanceof Deno.errors.NotFound || (error as { code?: string }).code === "ENOENT";
    if (!absent) throw error;
  }
}

/** Names of a group's snapshots in the directory they share. */
export class SnapshotNames {
  readonly #dir: string;
  readonly #group: number;

  constructor(dir: string, group: number) {
    this.#dir = dir;
    this.#group = group;
  }

  /** One that was taken here to be sent; `n` tells two of one index apart. */
  taken(n: number): string {
    return `${this.#dir}/group-${this.#group}-${n}.taken`;
  }

  /** One that is arriving. */
  partial(at: { readonly index: number; readonly term: number }, sha256: string): string {
    return `${this.#dir}/${this.#stem(at)}${sha256}.partial`;
  }

  /** One that was installed. */
  installed(at: { readonly index: number; readonly term: number }, sha256: string): string {
    return `${this.#dir}/${this.#stem(at)}${sha256}.snapshot`;
  }

  /** The digest of the installed one at a point, from its name. */
  find(disk: Disk, at: { readonly index: number; readonly term: number }): string | undefined {
    const stem = this.#stem(at);
    const name = disk.list(this.#dir).find((found) => found.startsWith(stem) && found.endsWith(".snapshot"));
    return name?.slice(stem.length, -".snapshot".length);
  }

  /** Removes every file of the group, but for the one at `keep`. */
  clear(disk: Disk, keep?: string): void {
    const own = new RegExp(`^group-${this.#group}-.*\\.(snapshot|partial|taken)(\\.new)?$`);
    for (const name of disk.list(this.#dir)) {
      const path = `${this.#dir}/${name}`;
      if (own.test(name) && path !== keep) removeIfThere(disk, path);
    }
  }

  #stem({ index, term }: { readonly index: number; readonly term: number }): string {
    return `group-${this.#group}-${index}-${term}-`;
  }
}
