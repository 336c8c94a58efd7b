/**
 * The part of a file system that the log and snapshots need. Real twin: lib/wal's `systemDisk`; simulated twin:
 * SimDisk in lib/testing, which loses unsynced data, tears writes, flips bits and runs full.
 */
export interface Disk {
  /** Opens for reading and writing; `create` makes the file when absent. Not found is a NotFound error otherwise. */
  open(path: string, options: { readonly create: boolean }): DiskFile;
  /** Names in the directory, unsorted; empty when it does not exist. */
  list(dir: string): string[];
  /** Makes the directory and its parents. */
  mkdir(dir: string): void;
  remove(path: string): void;
  rename(from: string, to: string): void;
  /** Makes created, renamed and removed names in `dir` durable. */
  syncDir(dir: string): void;
}

export interface DiskFile {
  /** Bytes in the file now. */
  size(): number;
  /** Reads up to `into.length` bytes at `offset`; answers how many, 0 at the end. */
  readAt(into: Uint8Array, offset: number): number;
  /** Writes all of `data` at `offset`. A full disk throws an error whose `code` is "ENOSPC". */
  writeAt(data: Uint8Array, offset: number): void;
  truncate(bytes: number): void;
  /** Resolves once everything written before the call is durable (fdatasync). */
  sync(): Promise<void>;
  close(): void;
}
