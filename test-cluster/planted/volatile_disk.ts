import type { Disk, DiskFile } from "@ultracloud/base";

/** How long a disk that lies keeps what it said was durable: long beside an answer, short beside a test. */
const lyingDelayMs = 3_000;

type Change = { readonly kind: "write"; readonly at: number; readonly data: Uint8Array } | {
  readonly kind: "truncate";
  readonly bytes: number;
};

/** Keeps every change in the memory of the process until it is synced: a kill -9 is then a power cut for the file. */
class VolatileFile implements DiskFile {
  readonly #file: DiskFile;
  readonly #lying: boolean;
  #changes: Change[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(file: DiskFile, lying: boolean) {
    this.#file = file;
    this.#lying = lying;
  }

  size(): number {
    let size = this.#file.size();
    for (const change of this.#changes) {
      size = change.kind === "truncate" ? change.bytes : Math.max(size, change.at + change.data.length);
    }
    return size;
  }

  readAt(into: Uint8Array, offset: number): number {
    into.fill(0);
    let have = this.#file.size();
    this.#file.readAt(into, offset);
    for (const change of this.#changes) {
      if (change.kind === "truncate") {
        // What lay beyond the new end reads as zeros, should the file grow again.
        into.fill(0, Math.min(into.length, Math.max(0, change.bytes - offset)));
        have = change.bytes;
        continue;
      }
      const from = Math.max(offset, change.at);
      const to = Math.min(offset + into.length, change.at + change.data.length);
      if (from < to) into.set(change.data.subarray(from - change.at, to - change.at), from - offset);
      have = Math.max(have, change.at + change.data.length);
    }
    return Math.max(0, Math.min(into.length, have - offset));
  }

  writeAt(data: Uint8Array, offset: number): void {
    this.#changes.push({ kind: "write", at: offset, data: data.slice() });
  }

  truncate(bytes: number): void {
    this.#changes.push({ kind: "truncate", bytes });
  }

  async sync(): Promise<void> {
    if (!this.#lying) {
      this.#flush();
      return await this.#file.sync();
    }
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#flush();
    }, lyingDelayMs);
    await Promise.resolve();
  }

  #flush(): void {
    const changes = this.#changes;
    this.#changes = [];
    for (const change of changes) {
      if (change.kind === "write") this.#file.writeAt(change.data, change.at);
      else this.#file.truncate(change.bytes);
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    // An orderly end writes out what it has, as a kernel does.
    this.#flush();
    this.#file.close();
  }
}

/**
 * The disk with a volatile cache in front. `lying` answers a sync before anything is written: the planted fault that a
 * proof of durability must find.
 */
export function volatileDisk(disk: Disk, options: { readonly lying: boolean }): Disk {
  return { ...disk, open: (path, how) => new VolatileFile(disk.open(path, how), options.lying) };
}
