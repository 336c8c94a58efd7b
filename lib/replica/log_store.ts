import { type Disk, fault } from "@ultracloud/base";
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
import { describeFile, type SnapshotFile, SnapshotNames } from "./snapshot_file.ts";

const noVoters: Configuration = { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };

export interface WalLogStoreOptions {
  readonly group: number;
  readonly snapshotDir: string;
}

export interface WalLogStoreDeps {
  readonly wal: Wal;
  readonly disk: Disk;
}

/**
 * The log of one group on the shared write-ahead log. The data of an installed snapshot lies in a file beside it, named by
 * its point and digest; that point in the log is what makes the file count.
 */
export class WalLogStore implements LogStore<SnapshotFile> {
  readonly names: SnapshotNames;
  readonly #wal: Wal;
  readonly #disk: Disk;
  readonly #group: number;
  readonly #dir: string;
  #installed: Snapshot<SnapshotFile> | undefined;

  private constructor({ group, snapshotDir }: WalLogStoreOptions, { wal, disk }: WalLogStoreDeps) {
    this.#wal = wal;
    this.#disk = disk;
    this.#group = group;
    this.#dir = snapshotDir;
    this.names = new SnapshotNames(snapshotDir, group);
  }

  /** Reads what survived; data_loss when the snapshot that the log begins with is damaged. */
  static async open(options: WalLogStoreOptions, deps: WalLogStoreDeps): Promise<WalLogStore> {
    const store = new WalLogStore(options, deps);
    deps.disk.mkdir(options.snapshotDir);
    const { base } = store.initialState();
    const digest = store.names.find(deps.disk, base);
    if (digest !== undefined) {
      const data = await describeFile(deps.disk, store.names.installed(base, digest));
      if (data.sha256 !== digest) {
        throw fault(
          "data_loss",
          "snapshot_damaged",
          `Cannot read the snapshot of group ${options.group}: its digest does not match`,
        );
      }
      store.#installed = { meta: base, data };
    }
    // Others were arriving or being sent when the process ended, or were about to be removed.
    store.names.clear(deps.disk, store.#installed?.data.path);
    return store;
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

  installSnapshot({ meta, data }: Snapshot<SnapshotFile>, done: Done): void {
    const path = this.names.installed(meta, data.sha256);
    try {
      // It has been synced when it was whole; the name comes last.
      this.#disk.rename(data.path, path);
      this.#disk.syncDir(this.#dir);
    } catch (error) {
      return queueMicrotask(() => done(error instanceof Error ? error : new Error(String(error))));
    }
    const { index, term, configuration } = meta;
    const to = { index, term, configuration: encodeConfiguration(configuration) };
    this.#wal.append({ group: this.#group, base: { to, reset: true } }, (error) => {
      if (!error) {
        // Only now: until the point is durable, a crash would come back to the older snapshot.
        const before = this.#installed?.data.path;
        this.#installed = { meta, data: { ...data, path } };
        if (before !== undefined) this.#disk.remove(before);
      }
      done(error);
    });
  }

  loadSnapshot(): Snapshot<SnapshotFile> | undefined {
    return this.#installed;
  }

  releaseSnapshot(index: number): void {
    if (this.#installed === undefined || this.#installed.meta.index > index) return;
    this.#disk.remove(this.#installed.data.path);
    this.#installed = undefined;
  }

  compact(base: SnapshotMeta): void {
    const to = { index: base.index, term: base.term, configuration: encodeConfiguration(base.configuration) };
    this.#wal.append({ group: this.#group, base: { to, reset: false } }, () => {});
  }
}
