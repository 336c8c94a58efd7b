import { checkLabels, type Clock, fault, type Id, newId, type Rng, toHex } from "@ultracloud/base";
import type { KvBackend, KvCondition, KvItem, KvWrite } from "./kv.ts";
import {
  buckets,
  decodeJson,
  decodeRecord,
  encodeJson,
  encodeTombstone,
  idKey,
  type Kind,
  looksLikeId,
  notFound,
  recordKey,
  type StoredRecord,
  tombstoneTtlMs,
} from "./records.ts";

/** Records one `tx.list` may read; a service that needs more pages through `platform.page`. */
export const txListRowsMax = 10_000;

/** What a new record is made of. */
export interface NewRecord<V> {
  readonly project: string;
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: V;
  /** Chosen by the caller, for sagas that must know it before; otherwise made here. */
  readonly id?: string;
}

/** What an update changes; what is absent stays. */
export interface RecordChange<V> {
  readonly value?: V;
  readonly labels?: Readonly<Record<string, string>>;
  /** When not empty it must be the record's (`aborted`, code `etag_mismatch`, otherwise). */
  readonly etag?: string;
}

/**
 * One try of a transaction. Every key read becomes a condition of the commit, so what was read is still true when the
 * writes take effect; writes are seen by later reads of the same transaction. Do nothing but reads and writes in it:
 * it may run several times.
 */
export class Tx {
  readonly nowMs: number;
  readonly #kv: KvBackend;
  readonly #deps: { readonly clock: Clock; readonly rng: Rng };
  readonly #signal: AbortSignal | undefined;
  readonly #reads = new Map<string, { bucket: string; key: string; item: Promise<KvItem | undefined> }>();
  readonly #writes = new Map<string, KvWrite>();
  readonly #committed: (() => void)[] = [];

  /** @internal made by `platform.transact` */
  constructor(kv: KvBackend, deps: { readonly clock: Clock; readonly rng: Rng }, signal?: AbortSignal) {
    this.#kv = kv;
    this.#deps = deps;
    this.#signal = signal;
    this.nowMs = deps.clock.nowMs();
  }

  /** The record, or undefined. Takes a name or an id; an id of another project is not found. */
  async find<V>(kind: Kind<V>, project: string, nameOrId: string): Promise<StoredRecord<V> | undefined> {
    if (looksLikeId(kind, nameOrId)) {
      const record = await this.findById(kind, nameOrId);
      return record?.project === project ? record : undefined;
    }
    return this.#record<V>(recordKey(kind.name, project, nameOrId));
  }

  /** The record, or a not_found fault. */
  async get<V>(kind: Kind<V>, project: string, nameOrId: string): Promise<StoredRecord<V>> {
    const record = await this.find(kind, project, nameOrId);
    if (!record) throw notFound(kind, project, nameOrId);
    return record;
  }

  /** The record with this id, whatever its project. */
  async findById<V>(kind: Kind<V>, id: string): Promise<StoredRecord<V> | undefined> {
    const bytes = await this.read(buckets.ids, idKey(kind.name, id));
    if (!bytes) return undefined;
    const record = await this.#record<V>(decodeJson<string>(bytes));
    return record?.id === id ? record : undefined;
  }

  /** The record with this id, or a not_found fault. */
  async getById<V>(kind: Kind<V>, id: string): Promise<StoredRecord<V>> {
    const record = await this.findById(kind, id);
    if (!record) throw notFound(kind, "", id);
    return record;
  }

  /**
   * Every record of the kind in the project (undefined: in all projects), by name. Those found become conditions;
   * one that is created meanwhile does not: use `guard` and `touch` where that matters.
   */
  async list<V>(kind: Kind<V>, project: string | undefined): Promise<StoredRecord<V>[]> {
    const prefix = project === undefined ? `${kind.name}|` : recordKey(kind.name, project, "");
    const found: StoredRecord<V>[] = [];
    for (const bytes of await this.#scan(buckets.records, prefix)) {
      const { record, deleted } = decodeRecord(bytes.value);
      if (!deleted) found.push(record as StoredRecord<V>);
    }
    return found;
  }

  /** Makes a record; its name must be free in its project and kind (`already_exists`). */
  async create<V>(kind: Kind<V>, fresh: NewRecord<V>): Promise<StoredRecord<V>> {
    checkLabels(fresh.labels ?? {});
    const key = recordKey(kind.name, fresh.project, fresh.name);
    if (await this.#record(key)) {
      const where = fresh.project === "" ? "" : ` in ${fresh.project}`;
      throw fault(
        "already_exists",
        `${kind.name}_exists`,
        `Cannot create ${kind.title} ${fresh.name}${where} as the name is taken`,
        { field: "name" },
      );
    }
    const id = fresh.id ?? (kind.prefix === undefined ? fresh.name : this.newId(kind.prefix));
    const record: StoredRecord<V> = {
      kind: kind.name,
      id,
      project: fresh.project,
      name: fresh.name,
      labels: fresh.labels ?? {},
      etag: this.#etag(),
      createMs: this.nowMs,
      updateMs: this.nowMs,
      revision: 1,
      value: fresh.value,
    };
    this.write(buckets.records, key, encodeJson(record));
    this.write(buckets.ids, idKey(kind.name, id), encodeJson(key));
    return record;
  }

  /** Writes a change to a record that this transaction has read. */
  update<V>(kind: Kind<V>, record: StoredRecord<V>, change: RecordChange<V>): StoredRecord<V> {
    this.checkEtag(kind, record, change.etag);
    if (change.labels) checkLabels(change.labels);
    const next: StoredRecord<V> = {
      ...record,
      labels: change.labels ?? record.labels,
      value: change.value ?? record.value,
      etag: this.#etag(),
      updateMs: this.nowMs,
      revision: record.revision + 1,
    };
    this.write(buckets.records, recordKey(kind.name, record.project, record.name), encodeJson(next));
    return next;
  }

  /** Removes a record that this transaction has read. */
  remove<V>(kind: Kind<V>, record: StoredRecord<V>, o: { readonly etag?: string } = {}): void {
    this.checkEtag(kind, record, o.etag);
    const key = recordKey(kind.name, record.project, record.name);
    this.write(buckets.records, key, encodeTombstone(record, this.#etag(), this.nowMs), tombstoneTtlMs);
    this.delete(buckets.ids, idKey(kind.name, record.id));
  }

  /** Refuses a stale etag (`aborted`); an empty one asks for nothing. */
  checkEtag(kind: Kind<unknown>, record: StoredRecord, etag: string | undefined): void {
    if (etag === undefined || etag === "" || etag === record.etag) return;
    throw fault(
      "aborted",
      "etag_mismatch",
      `Cannot change ${kind.title} ${record.name} as it has changed since it was read: wanted etag ${record.etag}`,
      { field: "etag" },
    );
  }

  /** A small value of the service under its own key. */
  async row<T>(key: string): Promise<T | undefined> {
    const bytes = await this.read(buckets.rows, key);
    return bytes && decodeJson<T>(bytes);
  }

  putRow(key: string, value: unknown, ttlMs?: number): void {
    this.write(buckets.rows, key, encodeJson(value), ttlMs);
  }

  deleteRow(key: string): void {
    this.delete(buckets.rows, key);
  }

  /** Small values whose key starts with the prefix, in key order. */
  async rows<T>(prefix: string): Promise<{ key: string; value: T }[]> {
    return (await this.#scan(buckets.rows, prefix)).map((item) => ({
      key: item.key,
      value: decodeJson<T>(item.value),
    }));
  }

  /**
   * Makes the commit fail when another transaction touches the guard meanwhile. Read it before listing children of
   * something that is about to be removed.
   */
  async guard(name: string): Promise<void> {
    await this.read(buckets.rows, `guard|${name}`);
  }

  /** Fails transactions that guard the name; touching ones do not disturb each other. */
  touch(name: string): void {
    this.putRow(`guard|${name}`, this.nowMs);
  }

  newId<P extends Parameters<typeof newId>[0]>(prefix: P): Id<P> {
    return newId(prefix, this.#deps.clock, this.#deps.rng);
  }

  /** Runs once the transaction has committed; must not throw. */
  afterCommit(action: () => void): void {
    this.#committed.push(action);
  }

  /** Raw read of any bucket of the service's database. */
  async read(bucket: string, key: string): Promise<Uint8Array | undefined> {
    const id = `${bucket}|${key}`;
    const own = this.#writes.get(id);
    if (own) return own.put;
    return (await this.#fetch(id, bucket, key))?.value;
  }

  /** Raw write of any bucket of the service's database. */
  write(bucket: string, key: string, put: Uint8Array, ttlMs?: number): void {
    this.#writes.set(`${bucket}|${key}`, { bucket, key, put, ...(ttlMs === undefined ? {} : { ttlMs }) });
  }

  delete(bucket: string, key: string): void {
    this.#writes.set(`${bucket}|${key}`, { bucket, key });
  }

  /** @internal commits; false when a condition no longer holds. */
  async commit(): Promise<boolean> {
    if (this.#writes.size > 0) {
      const conditions: KvCondition[] = [];
      for (const { bucket, key, item } of this.#reads.values()) {
        conditions.push({ bucket, key, version: (await item)?.version ?? 0 });
      }
      const result = await this.#kv.write(conditions, [...this.#writes.values()], this.#signal);
      if (!result.committed) return false;
    }
    for (const action of this.#committed) action();
    return true;
  }

  #fetch(id: string, bucket: string, key: string): Promise<KvItem | undefined> {
    let read = this.#reads.get(id);
    if (!read) this.#reads.set(id, read = { bucket, key, item: this.#kv.get(bucket, key, this.#signal) });
    return read.item;
  }

  async #scan(bucket: string, prefix: string): Promise<{ key: string; value: Uint8Array }[]> {
    const items = await this.#kv.scan(bucket, { prefix, limit: txListRowsMax }, this.#signal);
    const merged = new Map<string, Uint8Array>();
    for (const item of items) {
      const id = `${bucket}|${item.key}`;
      if (!this.#reads.has(id)) this.#reads.set(id, { bucket, key: item.key, item: Promise.resolve(item) });
      merged.set(item.key, item.value);
    }
    let added = false;
    for (const write of this.#writes.values()) {
      if (write.bucket !== bucket || !write.key.startsWith(prefix)) continue;
      if (write.put) {
        added ||= !merged.has(write.key);
        merged.set(write.key, write.put);
      } else merged.delete(write.key);
    }
    const all = [...merged].map(([key, value]) => ({ key, value }));
    return added ? all.sort((a, b) => a.key < b.key ? -1 : 1) : all;
  }

  async #record<V>(key: string): Promise<StoredRecord<V> | undefined> {
    const bytes = await this.read(buckets.records, key);
    if (!bytes) return undefined;
    const { record, deleted } = decodeRecord(bytes);
    return deleted ? undefined : record as StoredRecord<V>;
  }

  /** 48 random bits: two writes of one name never share it. */
  #etag(): string {
    return toHex(this.#deps.rng.fill(new Uint8Array(6)));
  }
}
