import type { Disk, DiskFile } from "@ultracloud/base";
import * as fs from "node:fs";

class SystemFile implements DiskFile {
  readonly #fd: number;
  constructor(fd: number) {
    this.#fd = fd;
  }
  size(): number {
    return fs.fstatSync(this.#fd).size;
  }
  readAt(into: Uint8Array, offset: number): number {
    return fs.readSync(this.#fd, into, 0, into.length, offset);
  }
  writeAt(data: Uint8Array, offset: number): void {
    for (let done = 0; done < data.length;) {
      done += fs.writeSync(this.#fd, data, done, data.length - done, offset + done);
    }
  }
  truncate(bytes: number): void {
    fs.ftruncateSync(this.#fd, bytes);
  }
  sync(): Promise<void> {
    return new Promise((resolve, reject) => fs.fdatasync(this.#fd, (error) => error ? reject(error) : resolve()));
  }
  close(): void {
    fs.closeSync(this.#fd);
  }
}

/** The machine's file system. */
export const systemDisk: Disk = {
  open: (path, { create }) =>
    new SystemFile(fs.openSync(path, create ? fs.constants.O_RDWR | fs.constants.O_CREAT : fs.constants.O_RDWR, 0o600)),
  list(dir) {
    try {
      return fs.readdirSync(dir);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT" || error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  },
  mkdir(dir) {
    const first = fs.mkdirSync(dir, { recursive: true, mode: 0o700 });
    if (first === undefined) return;
    // Each new name is made durable in its parent: a file synced in a directory that vanishes is lost all the same.
    for (let made = dir; made.length >= first.length; made = parentOf(made)) syncIfAllowed(parentOf(made));
  },
  remove: (path) => fs.unlinkSync(path),
  rename: (from, to) => fs.renameSync(from, to),
  syncDir,
};

function syncDir(dir: string): void {
  const fd = fs.openSync(dir, "r");
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** A component may not look above its own directories; whoever made those answers for their names. */
function syncIfAllowed(dir: string): void {
  try {
    syncDir(dir);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (!(error instanceof Deno.errors.NotCapable) && code !== "EACCES" && code !== "EPERM") throw error;
  }
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}
