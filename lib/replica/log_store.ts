import { type Disk, fault, toHex } from "@ultracloud/base";
import type {
  Configuration,
  Done,
  Entry,
  HardState,
  LogBatch,
  LogStore,
  Snapshot,
  SnapshotMeta,
} from "@ultracloud/raft";
import { decodeConfiguration, encodeConfiguration } from "@ultracloud/raft";
import type { Wal } from "@ultracloud/wal";
import { createHash } from "node:crypto";

const noVoters: Configuration = { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
/** Terms and index of a snapshot file's head line; the configuration and the data follow. */
const headBytes = 64;

/** The log of one group on the shared write-ahead log; the data of installed snapshots lies in a file beside it. */
export class WalLogStore implements LogStore {
  readonly #wal: Wal;
  readonly #disk: Disk;
  readonly #group: number;
  readonly #dir: string;
  #installed: Snapshot | undefined;

  constructor(
    options: { readonly group: number; readonly snapshotDir: string },
    deps: { readonly wal: Wal; readonly disk: Disk },
  ) {
    this.#wal = deps.wal;
    this.#disk = deps.disk;
    this.#group = options.group;
    this.#dir = options.snapshotDir;
    this.#disk.mkdir(this.#dir);
    this.#installed = this.#readSnapshot();
    // Others were being installed when the process died, or were about to be removed.
    this.removeSnapshots(this.#installed?.meta.index);
  }

  #file(index: number): string {
    return `${this.#dir}/${this.#name(index)}`;
  }

  #name(index: number): string {
    return `group-${this.#group}-${index}.snapshot`;
  }

  /** Removes the snapshot files of the group, but for the one at `keep`. */
  removeSnapshots(keep?: number): void {
    const own = new RegExp(`^group-${this.#group}-(\\d+)\\.snapshot(\\.new)?$`);
    for (const name of this.#disk.list(this.#dir)) {
      if (own.test(name) && (keep === undefined || name !== this.#name(keep))) {
        this.#disk.remove(`${this.#dir}/${name}`);
      }
    }
  }

  initialState(): { hardState: HardState; base: SnapshotMeta } {
    const { hardState, base } = this.#wal.index(this.#group);
    // A snapshot whose file is whole but whose point never reached the log was never acknowledged.
    return {
      hardState,
      base: {
        index: base.index,
        term: base.term,
        configuration: base.configuration.length === 0 ? noVoters : decodeConfiguration(base.configuration),
      },
    };
  }

  firstIndex(): number {
    return this.#wal.index(this.#group).firstIndex();
  }

  lastIndex(): number {
    return this.#wal.index(this.#group).lastIndex();
  }

  term(index: number): number | undefined {
    const log = this.#wal.index(this.#group);
    return index === log.base.index ? log.base.term : log.at(index)?.term;
  }

  entries(low: number, high: number, bytesMax: number): Entry[] {
    const found: Entry[] = [];
    let bytes = 0;
    for (let index = low; index < high; index++) {
      const { term, config, data } = this.#wal.read(this.#group, index);
      bytes += data.length;
      if (found.length > 0 && bytes > bytesMax) break;
      found.push({ term, index, kind: config ? "config" : "normal", data });
    }
    return found;
  }

  append(batch: LogBatch, done: Done): void {
    const entries = batch.entries.map(({ term, index, kind, data }) => ({
      term,
      index,
      config: kind === "config",
      data,
    }));
    this.#wal.append({ group: this.#group, entries, hardState: batch.hardState }, done);
  }

  installSnapshot(snapshot: Snapshot, done: Done): void {
    this.#writeSnapshot(snapshot).then(() => {
      const { index, term, configuration } = snapshot.meta;
      const to = { index, term, configuration: encodeConfiguration(configuration) };
      this.#wal.append({ group: this.#group, base: { to, reset: true } }, (error) => {
        if (!error) {
          // Only now: until the point is durable, a crash would come back to the older snapshot.
          this.#installed = snapshot;
          this.removeSnapshots(index);
        }
        done(error);
      });
    }, (error) => done(error instanceof Error ? error : new Error(String(error))));
  }

  loadSnapshot(): Snapshot | undefined {
    return this.#installed;
  }

  releaseSnapshot(index: number): void {
    if (this.#installed === undefined || this.#installed.meta.index > index) return;
    this.#installed = undefined;
    this.removeSnapshots();
  }

  compact(base: SnapshotMeta): void {
    const to = { index: base.index, term: base.term, configuration: encodeConfiguration(base.configuration) };
    this.#wal.append({ group: this.#group, base: { to, reset: false } }, () => {});
  }

  /** File: head (sha256 of the rest, index, term, configuration length), configuration, data. Named last. */
  async #writeSnapshot({ meta, data }: Snapshot): Promise<void> {
    const configuration = encodeConfiguration(meta.configuration);
    const rest = new Uint8Array(configuration.length + data.length);
    rest.set(configuration);
    rest.set(data, configuration.length);
    const head = new Uint8Array(headBytes);
    const view = new DataView(head.buffer);
    view.setBigUint64(32, BigInt(meta.index), true);
    view.setBigUint64(40, BigInt(meta.term), true);
    view.setUint32(48, configuration.length, true);
    head.set(digest(head.subarray(32), rest));
    const path = this.#file(meta.index);
    const next = `${path}.new`;
    const file = this.#disk.open(next, { create: true });
    try {
      file.truncate(0);
      file.writeAt(head, 0);
      file.writeAt(rest, headBytes);
      await file.sync();
    } finally {
      file.close();
    }
    this.#disk.rename(next, path);
    this.#disk.syncDir(this.#dir);
  }

  #readSnapshot(): Snapshot | undefined {
    const { index } = this.#wal.index(this.#group).base;
    if (!this.#disk.list(this.#dir).includes(this.#name(index))) return undefined;
    const file = this.#disk.open(this.#file(index), { create: false });
    let bytes: Uint8Array;
    try {
      bytes = new Uint8Array(file.size());
      for (let at = 0; at < bytes.length;) {
        const n = file.readAt(bytes.subarray(at), at);
        if (n === 0) break;
        at += n;
      }
    } finally {
      file.close();
    }
    const rest = bytes.subarray(headBytes);
    if (
      bytes.length < headBytes || toHex(digest(bytes.subarray(32, headBytes), rest)) !== toHex(bytes.subarray(0, 32))
    ) {
      throw fault(
        "data_loss",
        "snapshot_damaged",
        `Cannot read the snapshot of group ${this.#group}: its digest does not match`,
      );
    }
    const view = new DataView(bytes.buffer);
    const configurationBytes = view.getUint32(48, true);
    return {
      meta: {
        index: Number(view.getBigUint64(32, true)),
        term: Number(view.getBigUint64(40, true)),
        configuration: decodeConfiguration(rest.slice(0, configurationBytes)),
      },
      data: rest.slice(configurationBytes),
    };
  }
}

function digest(...parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
}
