import { type Disk, type DiskFile, fault, toHex } from "@ultracloud/base";
import type { SnapshotHeader } from "@ultracloud/raft";
import { createHash, type Hash } from "node:crypto";
import { removeIfThere, snapshotChunkBytes, type SnapshotFile, type SnapshotNames } from "./snapshot_file.ts";

/** A snapshot larger than this is refused: no state of one group comes near it, so the number is wrong. */
const snapshotBytesMax = 2 ** 40;
/** Written between two syncs, so that the last one does not have to wait for everything. */
const syncEveryBytes = 64 * 2 ** 20;

/** What a peer says of the snapshot it sends, with each piece. */
export interface IncomingSnapshot {
  readonly header: SnapshotHeader;
  readonly bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

export interface InboxAnswer {
  readonly offset: number;
  readonly installed: boolean;
}

interface Partial {
  readonly path: string;
  readonly file: DiskFile;
  readonly hash: Hash;
  readonly term: number;
  offset: number;
  unsynced: number;
}

/**
 * The snapshot that is arriving for one group: one at a time, in a file named by its point and digest. A sender asks how
 * far it is and goes on from there, whatever broke in between; another snapshot of the same or a later term takes its
 * place. A restart of this process begins afresh.
 */
export class SnapshotInbox {
  readonly #names: SnapshotNames;
  readonly #disk: Disk;
  readonly #install: (header: SnapshotHeader, file: SnapshotFile) => Promise<boolean>;
  #partial: Partial | undefined;
  /** Calls are served one after the other. */
  #turn: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(names: SnapshotNames, deps: {
    readonly disk: Disk;
    /** Hands the whole, verified file over; false when it is not wanted. */
    readonly install: (header: SnapshotHeader, file: SnapshotFile) => Promise<boolean>;
  }) {
    this.#names = names;
    this.#disk = deps.disk;
    this.#install = deps.install;
  }

  /** Takes a piece if it is the next one; answers how far the transfer is. */
  take(snapshot: IncomingSnapshot, offset: number, chunk: Uint8Array): Promise<InboxAnswer> {
    if (snapshot.bytes > snapshotBytesMax) {
      throw fault(
        "resource_exhausted",
        "snapshot_too_large",
        `Cannot take a snapshot of ${snapshot.bytes} bytes: wanted at most ${snapshotBytesMax}`,
      );
    }
    if (!/^[0-9a-f]{64}$/.test(snapshot.sha256)) {
      throw fault("invalid_argument", "snapshot_malformed", "Cannot take a snapshot without a digest of 32 bytes");
    }
    if (chunk.length > snapshotChunkBytes || offset + chunk.length > snapshot.bytes) {
      throw fault(
        "invalid_argument",
        "snapshot_malformed",
        `Cannot take ${chunk.length} bytes at ${offset} of a snapshot of ${snapshot.bytes}`,
      );
    }
    const answer = this.#turn.then(() => this.#takeNow(snapshot, offset, chunk));
    this.#turn = answer.catch(() => {});
    return answer;
  }

  async #takeNow(snapshot: IncomingSnapshot, offset: number, chunk: Uint8Array): Promise<InboxAnswer> {
    if (this.#closed) throw fault("unavailable", "stopping", "Cannot take a snapshot as this replica is stopping");
    const partial = this.#open(snapshot);
    try {
      if (offset === partial.offset && chunk.length > 0) await this.#write(partial, chunk);
      if (partial.offset < snapshot.bytes) return { offset: partial.offset, installed: false };
      return await this.#finish(partial, snapshot);
    } catch (error) {
      this.#drop();
      if ((error as { code?: string }).code !== "ENOSPC") throw error;
      throw fault("resource_exhausted", "disk_full", "Cannot take the snapshot as the disk is full", { cause: error });
    }
  }

  #open({ header, sha256 }: IncomingSnapshot): Partial {
    const path = this.#names.partial(header.meta, sha256);
    if (this.#partial?.path === path) return this.#partial;
    if (this.#partial && this.#partial.term > header.term) {
      throw fault(
        "failed_precondition",
        "snapshot_stale",
        `Cannot take a snapshot of term ${header.term} while one of term ${this.#partial.term} arrives`,
      );
    }
    this.#drop();
    removeIfThere(this.#disk, path);
    const file = this.#disk.open(path, { create: true });
    this.#partial = { path, file, hash: createHash("sha256"), term: header.term, offset: 0, unsynced: 0 };
    return this.#partial;
  }

  async #write(partial: Partial, chunk: Uint8Array): Promise<void> {
    partial.file.writeAt(chunk, partial.offset);
    partial.hash.update(chunk);
    partial.offset += chunk.length;
    partial.unsynced += chunk.length;
    if (partial.unsynced < syncEveryBytes) return;
    partial.unsynced = 0;
    await partial.file.sync();
  }

  async #finish(partial: Partial, { header, bytes, sha256 }: IncomingSnapshot): Promise<InboxAnswer> {
    if (toHex(new Uint8Array(partial.hash.digest())) !== sha256) {
      throw fault("data_loss", "snapshot_damaged", "Cannot take the snapshot: its digest does not match");
    }
    await partial.file.sync();
    partial.file.close();
    this.#partial = undefined;
    const installed = await this.#install(header, { path: partial.path, bytes, sha256 });
    // The log has given it another name if it wanted it.
    removeIfThere(this.#disk, partial.path);
    if (installed) return { offset: bytes, installed };
    throw fault("failed_precondition", "snapshot_refused", "Cannot install the snapshot: it is stale, or another is");
  }

  #drop(): void {
    if (!this.#partial) return;
    this.#partial.file.close();
    removeIfThere(this.#disk, this.#partial.path);
    this.#partial = undefined;
  }

  /** Lets go of what has arrived. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#turn;
    this.#drop();
  }
}
