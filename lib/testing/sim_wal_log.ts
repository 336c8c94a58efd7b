import {
  decodeConfiguration,
  type Done,
  emptyConfiguration,
  encodeConfiguration,
  type Entry,
  type HardState,
  type LogBatch,
  type Snapshot,
  type SnapshotMeta,
} from "@ultracloud/raft";
import { openWal, type Wal } from "@ultracloud/wal";
import type { SimDisk } from "./sim_disk.ts";
import {
  type CheckedLog,
  LogContent,
  readSnapshotData,
  removeSnapshotData,
  writeSnapshotData,
} from "./sim_raft_log.ts";

const GROUP = 1;
const DIR = "/wal";

/** The real write-ahead log on a simulated disk, with the ground truth that the checks need. */
export class SimWalLog implements CheckedLog {
  readonly #disk: SimDisk;
  readonly #soon: (run: () => void) => void;
  readonly #wal: Wal;
  /** What would be there after a crash now, at least. */
  readonly #truth = new LogContent();
  #snapshot: Snapshot | undefined;
  onAppend: (entries: readonly Entry[], termBefore: number | undefined) => void = () => {};

  /** `onFatal`: a write or sync failed, and the replica has to end. */
  constructor(
    options: { readonly segmentBytes: number },
    deps: {
      readonly disk: SimDisk;
      readonly soon: (run: () => void) => void;
      readonly onFatal: (error: Error) => void;
    },
  ) {
    const { disk, soon, onFatal } = deps;
    this.#disk = disk;
    this.#soon = soon;
    this.#wal = openWal({ dir: DIR, segmentBytes: options.segmentBytes }, { disk, onFatal, rng: { uint32: () => 1 } });
    const { hardState, base } = this.initialState();
    Object.assign(this.#truth, { hardState, base, entries: [] });
    if (this.lastIndex() >= this.firstIndex()) {
      this.#truth.append(this.entries(this.firstIndex(), this.lastIndex() + 1, Infinity));
    }
    const data = readSnapshotData(disk, base.index);
    if (data) this.#snapshot = { meta: base, data };
  }

  settle(done: Done): void {
    this.#wal.ready().then(() => this.#soon(() => done()));
  }

  initialState(): { hardState: HardState; base: SnapshotMeta } {
    const { hardState, base } = this.#wal.index(GROUP);
    const { index, term, configuration } = base;
    return {
      hardState: { ...hardState },
      base: {
        index,
        term,
        configuration: configuration.length === 0 ? emptyConfiguration : decodeConfiguration(configuration),
      },
    };
  }
  firstIndex(): number {
    return this.#wal.index(GROUP).firstIndex();
  }
  lastIndex(): number {
    return this.#wal.index(GROUP).lastIndex();
  }
  term(index: number): number | undefined {
    const log = this.#wal.index(GROUP);
    return index === log.base.index ? log.base.term : log.at(index)?.term;
  }
  entries(low: number, high: number, bytesMax: number): readonly Entry[] {
    const found: Entry[] = [];
    let bytes = 0;
    for (let index = low; index < high; index++) {
      const { term, config, data } = this.#wal.read(GROUP, index);
      bytes += data.length;
      if (found.length > 0 && bytes > bytesMax) break;
      found.push({ term, index, kind: config ? "config" : "normal", data });
    }
    return found;
  }

  append(batch: LogBatch, done: Done): void {
    const [first] = batch.entries;
    if (first) this.onAppend(batch.entries, this.#termBefore(first.index));
    for (const { index, term } of batch.entries) this.#asked.set(index, term);
    const entries = batch.entries.map(({ term, index, kind, data }) => ({
      term,
      index,
      config: kind === "config",
      data,
    }));
    this.#wal.append({ group: GROUP, entries, hardState: batch.hardState }, (error) => {
      if (!error) this.#truth.append(batch.entries);
      this.#soon(() => done(error));
    });
  }
  /** Terms of entries that were asked for and may not be in the log yet. */
  readonly #asked = new Map<number, number>();

  #termBefore(index: number): number | undefined {
    return this.#asked.get(index - 1) ?? this.term(index - 1);
  }

  installSnapshot(snapshot: Snapshot, done: Done): void {
    const { index, term, configuration } = snapshot.meta;
    writeSnapshotData(this.#disk, snapshot, (failed) => {
      if (failed) return this.#soon(() => done(failed));
      const to = { index, term, configuration: encodeConfiguration(configuration) };
      this.#asked.clear();
      this.#wal.append({ group: GROUP, base: { to, reset: true } }, (error) => {
        if (!error) {
          this.#truth.install(snapshot.meta);
          this.#snapshot = snapshot;
          removeSnapshotData(this.#disk, (held) => held < index);
        }
        this.#soon(() => done(error));
      });
    });
  }

  loadSnapshot(): Snapshot | undefined {
    return this.#snapshot;
  }

  releaseSnapshot(index: number): void {
    if (this.#snapshot && this.#snapshot.meta.index <= index) this.#snapshot = undefined;
    removeSnapshotData(this.#disk, (held) => held <= index);
  }

  compact({ index, term, configuration }: SnapshotMeta): void {
    const to = { index, term, configuration: encodeConfiguration(configuration) };
    this.#wal.append({ group: GROUP, base: { to, reset: false } }, () => {});
  }

  holdsDurably(index: number, term: number): boolean {
    return this.#truth.holds(index, term);
  }
  durableLast(): number {
    return this.#truth.last;
  }
}
