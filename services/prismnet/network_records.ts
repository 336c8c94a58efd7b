import { Fault, toHex, utf8 } from "@ultracloud/base";
import {
  buckets,
  decodeRecord,
  keyAfter,
  type Kind,
  type KvItem,
  kvScanRowsMax,
  type Platform,
  type StoredRecord,
} from "@ultracloud/platform";
import type { NetHost, Port } from "./domain/types.ts";
import { HostPorts } from "./host_ports.ts";
import {
  aclKind,
  floatingIpKind,
  gatewayKind,
  groupKind,
  hostKind,
  peeringKind,
  poolKind,
  portKind,
  routerKind,
  subnetKind,
  vpcKind,
} from "./kinds.ts";
import type { NetworkState } from "./ovn/state.ts";

/** While the store cannot be followed, it is tried again this often. */
const retryMs = 500;
/** Everything is read anew this often, should a change ever have been told wrongly. */
const rereadMs = 300_000;
/** Row whose writing tells where the store stands. */
const markKey = "network_records";

const kinds = {
  vpcs: vpcKind,
  subnets: subnetKind,
  groups: groupKind,
  ports: portKind,
  acls: aclKind,
  routers: routerKind,
  pools: poolKind,
  gateways: gatewayKind,
  floatingIps: floatingIpKind,
  peerings: peeringKind,
  hosts: hostKind,
} as const satisfies Record<keyof NetworkState, Kind<unknown>>;
const parts = Object.keys(kinds) as (keyof NetworkState)[];
const partOf = new Map(parts.map((part) => [kinds[part].name, part]));

/** Rows of one kind by key, and the same as a list in the order of keys. */
class Part {
  readonly rows = new Map<string, { readonly version: number; readonly record: StoredRecord }>();
  #list: readonly StoredRecord[] | undefined;

  set(key: string, version: number, record: StoredRecord): void {
    this.rows.set(key, { version, record });
    this.#list = undefined;
  }

  delete(key: string): void {
    if (this.rows.delete(key)) this.#list = undefined;
  }

  /** The same array until something changes. */
  list(): readonly StoredRecord[] {
    return this.#list ??= [...this.rows].sort(([a], [b]) => a < b ? -1 : 1).map(([, { record }]) => record);
  }
}

/** All records of the network as one reading found them, or as changes have made them since. */
class Held {
  readonly #parts = new Map<keyof NetworkState, Part>(parts.map((part) => [part, new Part()]));
  readonly hostPorts = new HostPorts();
  /** Tells this reading from every other one, of this replica and of others. */
  readonly epoch: string;
  /** Index of the newest record in it: kinds are read one after the other, so others of before it may be missing. */
  newest = 0;

  constructor(epoch: string) {
    this.epoch = epoch;
  }

  apply(key: string, item: KvItem | undefined): void {
    const part = this.#parts.get(partOf.get(key.slice(0, key.indexOf("|")))!);
    if (!part) return;
    const old = part.rows.get(key);
    // A mark of something removed that has expired: the removal was told when it was set.
    if (!item || (old && old.version >= item.version)) return;
    this.newest = Math.max(this.newest, item.version);
    const { record, deleted } = decodeRecord(item.value);
    if (deleted) part.delete(key);
    else part.set(key, item.version, record);
    if (record.kind === portKind.name) {
      const next = deleted ? undefined : record as StoredRecord<Port>;
      this.hostPorts.change(old?.record as StoredRecord<Port> | undefined, next, item.version);
    }
  }

  state(): NetworkState {
    return Object.fromEntries(parts.map((part) => [part, this.#parts.get(part)!.list()])) as unknown as NetworkState;
  }

  host(name: string): StoredRecord<NetHost> | undefined {
    return this.#parts.get("hosts")!.rows.get(`${hostKind.name}||${name}`)?.record as StoredRecord<NetHost>;
  }
}

async function readHeld(platform: Platform): Promise<Held> {
  const held = new Held(toHex(platform.rng.fill(new Uint8Array(6))));
  // A port is never newer than what it is made of: what others name is read after them.
  for (const part of parts.toReversed()) {
    const prefix = `${kinds[part].name}|`;
    let start: string | undefined;
    for (;;) {
      const items = await platform.kv.scan(buckets.records, {
        prefix,
        limit: kvScanRowsMax,
        ...(start === undefined ? {} : { start }),
      });
      for (const item of items) held.apply(item.key, item);
      if (items.length < kvScanRowsMax) break;
      start = keyAfter(items.at(-1)!.key);
    }
  }
  return held;
}

/** The records as the store has them now, with the index of the newest. */
export async function readNetwork(platform: Platform): Promise<{ state: NetworkState; version: number }> {
  const held = await readHeld(platform);
  return { state: held.state(), version: held.newest };
}

/**
 * The records of the network, followed: read once, then changed by what the store tells, so that a change costs what it
 * changes and not what there is. A record that did not change stays the same object.
 */
export class NetworkRecords {
  readonly #platform: Platform;
  readonly #listeners = new Set<() => void>();
  #held: Held | undefined;
  /** Everything up to it is held. */
  #index = 0;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** Undefined until everything has been read once. */
  get state(): NetworkState | undefined {
    return this.#held?.state();
  }

  /** Index up to which everything is held: what agents are told, as a change of before it will not be told again. */
  get version(): number {
    return this.#index;
  }

  /** Whether everything up to the index is in the state. */
  reaches(index: number): boolean {
    return this.#held !== undefined && this.#index >= index;
  }

  /** Of the reading that the state began with: versions say what has changed within one. */
  get epoch(): string {
    return this.#held?.epoch ?? "";
  }

  get hostPorts(): HostPorts | undefined {
    return this.#held?.hostPorts;
  }

  host(name: string): StoredRecord<NetHost> | undefined {
    return this.#held?.host(name);
  }

  /** Calls `listener` after every change, and after everything was read anew; answers how to stop. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves when `condition` holds, which is looked at after every change; false when the time is over before. */
  async until(condition: () => boolean, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    if (condition()) return true;
    if (timeoutMs <= 0) return false;
    const over = new AbortController();
    const stop = this.onChange(() => condition() && over.abort());
    try {
      await this.#platform.clock.sleep(
        timeoutMs,
        signal ? AbortSignal.any([signal, over.signal]) : over.signal,
      ).catch(() => {});
      signal?.throwIfAborted();
      return condition();
    } finally {
      stop();
    }
  }

  /** Follows the store until disposed of; one at a time. */
  follow(): AsyncDisposable {
    const stop = new AbortController();
    const following = this.#follow(stop.signal);
    return {
      async [Symbol.asyncDispose]() {
        stop.abort();
        await following;
      },
    };
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#platform;
    while (!signal.aborted) {
      const over = new AbortController();
      const within = AbortSignal.any([signal, over.signal]);
      const timer = clock.sleep(rereadMs, within).then(() => over.abort(), () => {});
      try {
        await this.#readAll();
        while (!within.aborted) await this.#followFrom(within);
      } catch (error) {
        if (!signal.aborted) log.debug("cannot read the records", { error: String(error) });
        await clock.sleep(retryMs, signal).catch(() => {});
      } finally {
        over.abort();
        await timer;
      }
    }
  }

  async #readAll(): Promise<void> {
    // The index of a write of ours: what is read after it holds everything before it.
    const mark = { bucket: buckets.rows, key: markKey, put: utf8.encode(String(this.#platform.clock.nowMs())) };
    const committed = await this.#platform.kv.write([], [mark]);
    const held = await readHeld(this.#platform);
    this.#index = committed.committed ? committed.version : 0;
    this.#held = held;
    this.#tell();
  }

  /** Applies changes until the signal or the end of the watch; throws when the store no longer tells from here on. */
  async #followFrom(signal: AbortSignal): Promise<void> {
    const { kv, clock, log } = this.#platform;
    try {
      for await (const { index, changes } of kv.watch(buckets.records, "", this.#index, signal)) {
        for (const { key, item } of changes) this.#held!.apply(key, item);
        this.#index = Math.max(this.#index, index);
        this.#tell();
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Fault && error.kind === "out_of_range") throw error;
      log.debug("cannot follow the records", { error: String(error) });
      await clock.sleep(retryMs, signal).catch(() => {});
    }
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
