import { assert, type Disk, type DiskFile, type Rng, uniform } from "@ultracloud/base";

/** A change that was made and is not durable. */
type Pending =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "truncate"; readonly bytes: number };

/** Bytes that grow in place. */
class Content {
  #bytes = new Uint8Array(0);
  size = 0;

  apply(change: Pending): void {
    if (change.kind === "truncate") {
      this.#grow(change.bytes);
      if (change.bytes < this.size) this.#bytes.fill(0, change.bytes, this.size);
      this.size = change.bytes;
      return;
    }
    const end = change.offset + change.data.length;
    this.#grow(end);
    this.#bytes.set(change.data, change.offset);
    this.size = Math.max(this.size, end);
  }

  view(from = 0, to = this.size): Uint8Array {
    return this.#bytes.subarray(from, Math.max(from, Math.min(to, this.size)));
  }

  copyOf(other: Content): void {
    this.#bytes = other.#bytes.slice(0, other.size);
    this.size = other.size;
  }

  flip(offset: number, bit: number): void {
    if (offset < this.size) this.#bytes[offset]! ^= 1 << bit;
  }

  #grow(bytes: number): void {
    if (bytes <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(bytes, 2 * this.#bytes.length, 256));
    larger.set(this.#bytes.subarray(0, this.size));
    this.#bytes = larger;
  }
}

/** A file apart from its names: what programs see, what a crash leaves, and the changes between the two. */
class Inode {
  readonly live = new Content();
  readonly durable = new Content();
  pending: Pending[] = [];
}

type NameChange =
  | { readonly kind: "link"; readonly path: string; readonly inode: Inode }
  | { readonly kind: "unlink"; readonly path: string };

export interface SimDiskOptions {
  readonly rng: Rng;
  /** Runs `run` after `ms`; without it a sync completes in the next microtask. */
  readonly after?: (ms: number, run: () => void) => void;
  /** How long a sync takes. */
  readonly syncMs?: () => number;
  /** Bytes that fit; writes beyond throw ENOSPC. */
  readonly capacityBytes?: number;
}

/**
 * A disk in memory that keeps no more than it promised. `crash` loses what was not synced: a random prefix of the
 * changes to each file survives, the last one torn at any byte, and names that were not made durable by `syncDir`
 * are as before. Faults are switched on by the test: `failSyncs`, `flipBit`, `capacityBytes`.
 */
export class SimDisk implements Disk {
  readonly #options: SimDiskOptions;
  #names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  #pendingNames: NameChange[] = [];
  readonly #dirs = new Set<string>();
  /** Open files and syncs under way belong to one life; a crash ends it. */
  #life = 0;
  #failingSyncs = 0;
  capacityBytes: number;
  /** Syncs that completed, for tests of group commit. */
  syncs = 0;

  constructor(options: SimDiskOptions) {
    this.#options = options;
    this.capacityBytes = options.capacityBytes ?? Infinity;
  }

  open(path: string, options: { readonly create: boolean }): SimDiskFile {
    let inode = this.#names.get(path);
    if (!inode) {
      if (!options.create) throw new Deno.errors.NotFound(`No such file: ${path}`);
      inode = new Inode();
      this.#change({ kind: "link", path, inode });
    }
    return new SimFile(this, inode, this.#life);
  }

  list(dir: string): string[] {
    const prefix = dir.endsWith("/") ? dir : dir + "/";
    const names = new Set<string>();
    for (const path of [...this.#names.keys(), ...this.#dirs]) {
      if (path.startsWith(prefix)) names.add(path.slice(prefix.length).split("/")[0]!);
    }
    return [...names];
  }

  mkdir(dir: string): void {
    this.#dirs.add(dir);
  }

  remove(path: string): void {
    if (!this.#names.has(path)) throw new Deno.errors.NotFound(`No such file: ${path}`);
    this.#change({ kind: "unlink", path });
  }

  rename(from: string, to: string): void {
    const inode = this.#names.get(from);
    if (!inode) throw new Deno.errors.NotFound(`No such file: ${from}`);
    // One step in the real world too: the new name appears with the old one gone.
    this.#change({ kind: "link", path: to, inode });
    this.#change({ kind: "unlink", path: from });
  }

  syncDir(dir: string): void {
    const inside = (change: NameChange) => change.path.slice(0, change.path.lastIndexOf("/")) === dir;
    for (const change of this.#pendingNames) if (inside(change)) applyName(this.#durableNames, change);
    this.#pendingNames = this.#pendingNames.filter((change) => !inside(change));
  }

  /** The machine stops: open files are dead, unsynced changes are lost but for a random, possibly torn prefix. */
  crash(): void {
    this.#life++;
    for (const inode of new Set([...this.#names.values(), ...this.#durableNames.values()])) this.#lose(inode);
    // Changes to a directory reach the disk in order, some of them before anyone asked.
    const kept = uniform(this.#options.rng, this.#pendingNames.length + 1);
    for (const change of this.#pendingNames.slice(0, kept)) applyName(this.#durableNames, change);
    this.#pendingNames = [];
    this.#names = new Map(this.#durableNames);
  }

  /** The process stops and the machine goes on: everything written stays, open files are dead. */
  kill(): void {
    this.#life++;
  }

  /** The next `count` syncs fail; what they were to make durable is then lost at the next crash or not, as on a real disk. */
  failSyncs(count: number): void {
    this.#failingSyncs = count;
  }

  /** Damages one bit of durable and visible content. */
  flipBit(path: string, offset: number, bit = uniform(this.#options.rng, 8)): void {
    const inode = this.#names.get(path);
    assert(inode && offset < inode.live.size, `No byte ${offset} in ${path}`);
    inode.live.flip(offset, bit);
    inode.durable.flip(offset, bit);
  }

  /** Bytes of a file that a crash cannot take. */
  durableBytes(path: string): Uint8Array {
    return this.#durableNames.get(path)?.durable.view().slice() ?? new Uint8Array(0);
  }

  /** Called by files: asserts that the file belongs to this life. */
  assertAlive(life: number): void {
    if (life !== this.#life) throw new Error("File was opened before a crash");
  }

  /** Called by files before a change. */
  makeRoom(inode: Inode, end: number): void {
    if (this.capacityBytes === Infinity || end <= inode.live.size) return;
    let used = end - inode.live.size;
    for (const other of new Set(this.#names.values())) used += other.live.size;
    if (used > this.capacityBytes) {
      throw Object.assign(new Error("No space left on device"), { code: "ENOSPC" });
    }
  }

  /** Called by files: makes what is pending now durable after a while, then calls `done`, never after a crash. */
  syncLater(inode: Inode, life: number, done: (error?: Error) => void): void {
    const fails = this.#failingSyncs > 0;
    if (fails) this.#failingSyncs--;
    const upTo = inode.pending.at(-1);
    const finish = () => {
      if (life !== this.#life) return;
      if (fails) return done(Object.assign(new Error("Input/output error"), { code: "EIO" }));
      const count = upTo ? inode.pending.indexOf(upTo) + 1 : 0;
      for (const change of inode.pending.splice(0, count)) inode.durable.apply(change);
      this.syncs++;
      done();
    };
    if (this.#options.after) this.#options.after(this.#options.syncMs?.() ?? 0, finish);
    else queueMicrotask(finish);
  }

  #lose(inode: Inode): void {
    const { rng } = this.#options;
    if (inode.pending.length > 0) {
      const kept = uniform(rng, inode.pending.length + 1);
      const torn = inode.pending[kept];
      for (const change of inode.pending.slice(0, kept)) inode.durable.apply(change);
      if (torn?.kind === "write") {
        const bytes = uniform(rng, torn.data.length + 1);
        if (bytes > 0) inode.durable.apply({ ...torn, data: torn.data.slice(0, bytes) });
      }
      inode.pending = [];
    }
    inode.live.copyOf(inode.durable);
  }

  #change(change: NameChange): void {
    applyName(this.#names, change);
    this.#pendingNames.push(change);
  }
}

/** A file of a SimDisk; `syncThen` is `sync` without a promise, for simulations that give promises no turn. */
export interface SimDiskFile extends DiskFile {
  syncThen(done: (error?: Error) => void): void;
}

class SimFile implements SimDiskFile {
  readonly #disk: SimDisk;
  readonly #inode: Inode;
  readonly #life: number;
  #open = true;

  constructor(disk: SimDisk, inode: Inode, life: number) {
    this.#disk = disk;
    this.#inode = inode;
    this.#life = life;
  }

  size(): number {
    return this.#use().live.size;
  }

  readAt(into: Uint8Array, offset: number): number {
    const inode = this.#use();
    const bytes = inode.live.view(offset, offset + into.length);
    into.set(bytes);
    return bytes.length;
  }

  writeAt(data: Uint8Array, offset: number): void {
    const inode = this.#use();
    this.#disk.makeRoom(inode, offset + data.length);
    const change: Pending = { kind: "write", offset, data: data.slice() };
    inode.live.apply(change);
    inode.pending.push(change);
  }

  truncate(bytes: number): void {
    const inode = this.#use();
    this.#disk.makeRoom(inode, bytes);
    const change: Pending = { kind: "truncate", bytes };
    inode.live.apply(change);
    inode.pending.push(change);
  }

  sync(): Promise<void> {
    return new Promise((resolve, reject) => this.syncThen((error) => error ? reject(error) : resolve()));
  }

  syncThen(done: (error?: Error) => void): void {
    this.#disk.syncLater(this.#use(), this.#life, done);
  }

  close(): void {
    this.#open = false;
  }

  #use(): Inode {
    assert(this.#open, "File is closed");
    this.#disk.assertAlive(this.#life);
    return this.#inode;
  }
}

function applyName(names: Map<string, Inode>, change: NameChange): void {
  if (change.kind === "link") names.set(change.path, change.inode);
  else names.delete(change.path);
}
