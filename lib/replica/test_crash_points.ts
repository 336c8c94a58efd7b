import type { Disk, DiskFile } from "@ultracloud/base";
import type { Message, Transport } from "@ultracloud/raft";
import { Database, openDatabase } from "@ultracloud/sqlite";
import { createHash } from "node:crypto";
import { type AppliedEntry, type GroupStateMachine, PeerTransport, type SnapshotFile } from "./mod.ts";

/**
 * The instants at which a member may be killed, between each two steps that leave something behind. They lie in what a
 * replica is given (disk, transport, state machine), so nothing that ships knows them.
 */
export const crashPoints = [
  "append: before the write",
  "append: in the middle of the write",
  "append: written, not synced",
  "append: synced, nobody told",
  "segment: half made",
  "segment: named, still empty",
  "truncate: before a segment is removed",
  "truncate: after a segment was removed",
  "send: before an append leaves",
  "send: after an append left",
  "send: before an acknowledgement leaves",
  "send: after an acknowledgement left",
  "send: before a vote leaves",
  "apply: before the transaction",
  "apply: in the middle of the transaction",
  "apply: committed, nobody told",
  "checkpoint: before",
  "checkpoint: durable, the log not cut",
  "snapshot: while it is written",
  "snapshot: written, not sent",
  "snapshot: a piece has arrived",
  "snapshot: whole, not synced",
  "snapshot: before the rename",
  "snapshot: renamed, the name not durable",
  "snapshot: the name durable, the log without it",
  "snapshot: in the log, before the restore",
  "snapshot: before the restore commits",
  "snapshot: restored",
  "snapshot: before it is removed",
] as const;
export type CrashPoint = typeof crashPoints[number];

/** Ends the process as a kill does when the armed point is passed for the n-th time. */
export class Fuse {
  #armed: { readonly point: CrashPoint; left: number } | undefined;

  arm(point: CrashPoint, passes = 1): void {
    if (!crashPoints.includes(point)) throw new Error(`Cannot arm ${point}: there is no such point`);
    this.#armed = { point, left: passes };
  }

  /** True when the next pass ends the process: for points in the middle of a step. */
  near(point: CrashPoint): boolean {
    return this.#armed?.point === point && this.#armed.left === 1;
  }

  pass(point: CrashPoint): void {
    if (this.#armed?.point !== point || --this.#armed.left > 0) return;
    Deno.kill(Deno.pid, "SIGKILL");
    // Nothing may happen until the signal has ended the process.
    for (;;);
  }
}

/** A disk whose steps can be the last. */
export function crashingDisk(disk: Disk, fuse: Fuse): Disk {
  /** Segments that are being made. */
  const young = new Set<string>();
  return {
    open(path, options) {
      const file = disk.open(path, options);
      if (path.endsWith(".wal")) {
        if (options.create) young.add(path);
        return segmentFile(file, fuse, () => young.has(path));
      }
      return path.endsWith(".partial") ? partialFile(file, fuse) : file;
    },
    list: (dir) => disk.list(dir),
    mkdir: (dir) => disk.mkdir(dir),
    remove(path) {
      if (path.endsWith(".wal")) fuse.pass("truncate: before a segment is removed");
      if (path.endsWith(".snapshot")) fuse.pass("snapshot: before it is removed");
      disk.remove(path);
      if (path.endsWith(".wal")) fuse.pass("truncate: after a segment was removed");
    },
    rename(from, to) {
      // A segment leaves the log by its name, whether its file is kept for another or not; another is made of it.
      const leaves = from.endsWith(".wal"), comes = to.endsWith(".wal");
      if (to.endsWith(".snapshot")) fuse.pass("snapshot: before the rename");
      if (leaves) fuse.pass("truncate: before a segment is removed");
      disk.rename(from, to);
      if (leaves) fuse.pass("truncate: after a segment was removed");
      if (comes) young.add(to);
      if (to.endsWith(".snapshot")) fuse.pass("snapshot: renamed, the name not durable");
    },
    syncDir(dir) {
      disk.syncDir(dir);
      if (dir.endsWith("/snapshots")) fuse.pass("snapshot: the name durable, the log without it");
      if (young.size > 0) fuse.pass("segment: named, still empty");
      young.clear();
    },
  };
}

function segmentFile(file: DiskFile, fuse: Fuse, isYoung: () => boolean): DiskFile {
  return {
    ...plain(file),
    writeAt(data, offset) {
      if (isYoung()) {
        if (fuse.near("segment: half made")) file.writeAt(data.subarray(0, data.length >>> 1), offset);
        fuse.pass("segment: half made");
        file.writeAt(data, offset);
        return;
      }
      fuse.pass("append: before the write");
      if (fuse.near("append: in the middle of the write")) file.writeAt(data.subarray(0, data.length >>> 1), offset);
      fuse.pass("append: in the middle of the write");
      file.writeAt(data, offset);
      fuse.pass("append: written, not synced");
    },
    async sync() {
      await file.sync();
      fuse.pass("append: synced, nobody told");
    },
  };
}

function partialFile(file: DiskFile, fuse: Fuse): DiskFile {
  return {
    ...plain(file),
    writeAt(data, offset) {
      file.writeAt(data, offset);
      fuse.pass("snapshot: a piece has arrived");
    },
    sync() {
      fuse.pass("snapshot: whole, not synced");
      return file.sync();
    },
  };
}

function plain(file: DiskFile): DiskFile {
  return {
    size: () => file.size(),
    readAt: (into, offset) => file.readAt(into, offset),
    writeAt: (data, offset) => file.writeAt(data, offset),
    truncate: (bytes) => file.truncate(bytes),
    sync: () => file.sync(),
    close: () => file.close(),
  };
}

/** Ways to peers on which a message can be the last. */
export class CrashingTransport extends PeerTransport {
  readonly #fuse: Fuse;

  constructor(
    options: ConstructorParameters<typeof PeerTransport>[0],
    deps: ConstructorParameters<typeof PeerTransport>[1],
    fuse: Fuse,
  ) {
    super(options, deps);
    this.#fuse = fuse;
  }

  override forGroup(group: number, deps: Parameters<PeerTransport["forGroup"]>[1]): Transport<SnapshotFile> {
    const inner = super.forGroup(group, deps);
    const fuse = this.#fuse;
    return {
      send(messages) {
        const has = (test: (m: Message) => boolean) => messages.some(test);
        const appends = has((m) => m.kind === "append" && m.entries.length > 0);
        const acks = has((m) => m.kind === "append_response" && !m.reject);
        if (appends) fuse.pass("send: before an append leaves");
        if (acks) fuse.pass("send: before an acknowledgement leaves");
        if (has((m) => m.kind === "vote_response" && !m.reject)) fuse.pass("send: before a vote leaves");
        inner.send(messages);
        // The call to the peer leaves a moment later; by then nobody may remember it.
        if (appends) setTimeout(() => fuse.pass("send: after an append left"), 1);
        if (acks) setTimeout(() => fuse.pass("send: after an acknowledgement left"), 1);
      },
      sendSnapshot(header, data, done) {
        fuse.pass("snapshot: written, not sent");
        inner.sendSnapshot(header, data, done);
      },
    };
  }
}

/** Texts in the order of the log, in SQLite, with a hash over all of them: what was applied twice or not at all shows. */
export class CrashingMachine implements GroupStateMachine, Disposable {
  readonly #db: Database;
  readonly #fuse: Fuse;

  constructor(path: string, fuse: Fuse) {
    this.#db = openDatabase(path);
    this.#fuse = fuse;
    this.#db.exec(`
      CREATE TABLE IF NOT EXISTS item(at INTEGER PRIMARY KEY, text TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS meta(one INTEGER PRIMARY KEY, applied INTEGER NOT NULL, hash TEXT NOT NULL);
      INSERT OR IGNORE INTO meta VALUES(1, 0, '');
    `);
  }

  state(): { readonly applied: number; readonly hash: string } {
    return this.#db.get<{ applied: number; hash: string }>("SELECT applied, hash FROM meta")!;
  }

  texts(): string[] {
    return this.#db.all<{ text: string }>("SELECT text FROM item ORDER BY at").map(({ text }) => text);
  }

  appliedIndex(): number {
    return this.state().applied;
  }

  applyBatch(entries: readonly AppliedEntry[]): readonly unknown[] {
    this.#fuse.pass("apply: before the transaction");
    const results = this.#db.transaction(() => {
      let { hash } = this.state();
      for (const { index, data } of entries) {
        const text = new TextDecoder().decode(data);
        this.#db.run("INSERT INTO item VALUES(?, ?)", index, text);
        hash = createHash("sha256").update(hash).update(`${index} ${text}`).digest("hex");
      }
      this.#fuse.pass("apply: in the middle of the transaction");
      this.#db.run("UPDATE meta SET applied = ?, hash = ?", entries.at(-1)!.index, hash);
      return entries.map(({ index }) => index);
    });
    this.#fuse.pass("apply: committed, nobody told");
    return results;
  }

  skipTo(index: number): void {
    this.#db.run("UPDATE meta SET applied = ?", index);
  }

  checkpoint(): number {
    this.#fuse.pass("checkpoint: before");
    const applied = this.appliedIndex();
    this.#db.checkpoint();
    this.#fuse.pass("checkpoint: durable, the log not cut");
    return applied;
  }

  snapshot(): Uint8Array {
    throw new Error("Snapshots go through files");
  }

  restore(): void {
    throw new Error("Snapshots come through files");
  }

  snapshotTo(path: string): Promise<number> {
    if (this.#fuse.near("snapshot: while it is written")) Deno.writeTextFileSync(path, "half");
    this.#fuse.pass("snapshot: while it is written");
    this.#db.run("VACUUM INTO ?", path);
    return Promise.resolve(this.appliedIndex());
  }

  restoreFrom(index: number, path: string): Promise<void> {
    this.#fuse.pass("snapshot: in the log, before the restore");
    this.#db.run("ATTACH ? AS other", path);
    try {
      this.#db.transaction(() => {
        this.#db.run("DELETE FROM item");
        this.#db.run("INSERT INTO item SELECT * FROM other.item");
        this.#db.run("UPDATE meta SET hash = (SELECT hash FROM other.meta), applied = ?", index);
        this.#fuse.pass("snapshot: before the restore commits");
      });
    } finally {
      this.#db.exec("DETACH other");
    }
    this.#fuse.pass("snapshot: restored");
    return Promise.resolve();
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }
}
