import { Fault, type Rng, uniform } from "@ultracloud/base";
import { checkOp } from "../domain/check.ts";
import { toTxn } from "../wire.ts";
import { readTxn } from "./kv.ts";

/** A request to one of etcd's paths, as both servers get it. */
export interface EtcdRequest {
  readonly path: string;
  /** JSON, or the text of a body that is none. */
  readonly body: Record<string, unknown> | string;
}

/** What the requests so far are known to have done; requests refer to it so that they meet something. */
export interface Known {
  revision: number;
  compactRevision: number;
  readonly leases: Set<string>;
}

const b64 = (text: string) => btoa(text);
const names = ["a", "a/", "a/1", "a/2", "a0", "b", "b/x", "b/y", "c", "zz", "\x00", "\x01", "\xff", "\xff\xff"];
const keys = [...names, ...Array.from({ length: 12 }, (_, i) => `n/${i}`)].map(b64);
const values = ["", "1", "2", "10", "ab", "\x00", "\xfe\xff", "x".repeat(300)].map(b64);
const open = b64("\x00");

/** Random requests by seed: the same seed and the same answers give the same requests. */
export class RequestSource {
  readonly #rng: Rng;
  readonly #known: Known;

  constructor(rng: Rng, known: Known) {
    this.#rng = rng;
    this.#known = known;
  }

  #chance(percent: number): boolean {
    return uniform(this.#rng, 100) < percent;
  }

  #pick<T>(of: readonly T[]): T {
    return of[uniform(this.#rng, of.length)]!;
  }

  #below(n: number): number {
    return uniform(this.#rng, n);
  }

  #key(): string {
    return this.#chance(1) ? "" : this.#pick(keys);
  }

  /** A number as JSON may carry it. */
  #number(value: number | bigint | string): number | string {
    return this.#chance(70) || !Number.isSafeInteger(Number(value)) ? String(value) : Number(value);
  }

  /** One key, a prefix, everything from a key on, a pair of keys, or a range that is empty. */
  #keyRange(): { key: string; range_end?: string } {
    const key = this.#key();
    switch (this.#below(6)) {
      case 0:
        return { key: open, range_end: open };
      case 1:
        return { key, range_end: open };
      case 2:
        return { key: b64("n/"), range_end: b64("n0") };
      case 3:
        return { key, range_end: this.#key() };
      default:
        return { key };
    }
  }

  #revision(): number {
    const { revision } = this.#known;
    if (this.#chance(3)) return revision + 1 + this.#below(3);
    if (this.#chance(10)) return -this.#below(3);
    return Math.max(1, revision - this.#below(60));
  }

  #lease(): string {
    const held = [...this.#known.leases];
    if (held.length === 0 || this.#chance(10)) return String(900 + this.#below(4));
    return this.#pick(held);
  }

  /** Fields that are there some of the time; the value is made only then. */
  #some(percent: number, fields: () => Record<string, unknown>): Record<string, unknown> {
    return this.#chance(percent) ? fields() : {};
  }

  range(inTxn = false): Record<string, unknown> {
    // Below 0 means now, but not to the checks of a transaction at etcd (negative-revision-in-txn).
    const revision = () => inTxn ? Math.max(0, this.#revision()) : this.#revision();
    const bound = () => this.#number(this.#chance(8) ? -1 : Math.max(0, this.#known.revision - this.#below(80)));
    return {
      ...this.#keyRange(),
      ...this.#some(40, () => ({ limit: this.#number(this.#below(7) - 1) })),
      ...this.#some(25, () => ({ revision: this.#number(revision()) })),
      ...this.#some(40, () => ({ sort_order: this.#pick(["NONE", "ASCEND", "DESCEND", 0, 1, 2]) })),
      ...this.#some(40, () => ({ sort_target: this.#pick(["KEY", "VERSION", "CREATE", "MOD", "VALUE", 1, 3]) })),
      ...this.#some(20, () => ({ serializable: this.#chance(50) })),
      ...this.#some(20, () => ({ keys_only: this.#chance(80) })),
      ...this.#some(15, () => ({ count_only: this.#chance(80) })),
      ...this.#some(8, () => ({ min_mod_revision: bound() })),
      ...this.#some(8, () => ({ max_mod_revision: bound() })),
      ...this.#some(8, () => ({ minCreateRevision: bound() })),
      ...this.#some(8, () => ({ max_create_revision: bound() })),
    };
  }

  put(): Record<string, unknown> {
    return {
      key: this.#key(),
      ...this.#some(90, () => ({ value: this.#pick(values) })),
      ...this.#some(20, () => ({ lease: this.#number(this.#lease()) })),
      ...this.#some(30, () => ({ prev_kv: this.#chance(80) })),
      ...this.#some(5, () => ({ ignore_value: true, ...this.#some(70, () => ({ value: "" })) })),
      ...this.#some(5, () => ({ ignoreLease: true, ...this.#some(70, () => ({ lease: "0" })) })),
    };
  }

  deleteRange(): Record<string, unknown> {
    const range = this.#chance(70) ? { key: this.#key() } : this.#keyRange();
    return { ...range, ...this.#some(40, () => ({ prev_kv: true })) };
  }

  #deleteWithin(): Record<string, unknown> {
    const made = this.deleteRange();
    return made.range_end === open ? { ...made, range_end: b64("\xff\xff\xff") } : made;
  }

  #compare(): Record<string, unknown> {
    const target = this.#pick(["VERSION", "CREATE", "MOD", "VALUE", "LEASE"]);
    const result = this.#pick(["EQUAL", "GREATER", "LESS", "NOT_EQUAL", 0, 1, 2, 3]);
    const { revision } = this.#known;
    const number = () => this.#number(this.#chance(5) ? -1 : this.#chance(30) ? 0 : this.#below(revision + 2));
    const operand: Record<string, () => Record<string, unknown>> = {
      VERSION: () => ({ version: this.#number(this.#below(6) - 1) }),
      CREATE: () => ({ create_revision: number() }),
      MOD: () => ({ modRevision: number() }),
      VALUE: () => ({ value: this.#pick(values) }),
      LEASE: () => ({ lease: this.#chance(50) ? 0 : this.#lease() }),
    };
    const range = this.#chance(75) ? { key: this.#key() } : this.#keyRange();
    return { ...range, target, result, ...this.#some(95, operand[target]!) };
  }

  txn(depth = 0): Record<string, unknown> {
    const ops = () => Array.from({ length: this.#below(depth === 0 ? 5 : 3) }, () => this.#op(depth));
    return {
      ...this.#some(85, () => ({ compare: Array.from({ length: this.#below(3) }, () => this.#compare()) })),
      ...this.#some(90, () => ({ success: ops() })),
      ...this.#some(70, () => ({ failure: ops() })),
    };
  }

  /** A transaction without those duplicates that etcd does not see, and then writes a key twice (missed-duplicates). */
  #plainTxn(): Record<string, unknown> {
    for (;;) {
      const made = this.txn();
      const nested = JSON.stringify(made).includes('"request_txn"');
      if (!nested || !hasDuplicates(made)) return made;
    }
  }

  #op(depth: number): Record<string, unknown> {
    const roll = this.#below(100);
    if (roll < 40) return { request_put: this.put() };
    if (roll < 65) return { request_range: this.range(true) };
    // etcd does not see that a deletion without end meets a put, and does both (missed-duplicates).
    if (roll < 85) return { request_delete_range: this.#deleteWithin() };
    if (roll < 86) return {};
    return depth < 3 ? { request_txn: this.txn(depth + 1) } : { requestPut: this.put() };
  }

  #leaseRequest(): EtcdRequest {
    const at = "/v3/lease/";
    const either = this.#chance(70) ? at : "/v3/kv/lease/";
    const id = this.#number(this.#lease());
    switch (this.#below(8)) {
      case 0:
      case 1:
      case 2:
        // Long enough to outlive the run: what ends by itself ends at another moment on each side.
        return { path: `${at}grant`, body: { ID: this.#number(100 + this.#below(40)), TTL: 3_600 + this.#below(10) } };
      case 3:
        return { path: `${either}revoke`, body: { ID: id } };
      case 4:
        return { path: `${either}timetolive`, body: { ID: id, ...this.#some(50, () => ({ keys: true })) } };
      case 5:
        return { path: "/v3/lease/keepalive", body: `{"ID":"${this.#lease()}"}{"ID":"${this.#lease()}"}` };
      case 6:
        return { path: `${either}leases`, body: this.#chance(50) ? {} : "" };
      default:
        return { path: `${at}grant`, body: { ID: id, TTL: this.#pick(["9000000001", 9_000_000_000_001, "3600"]) } };
    }
  }

  /** What no server can take. */
  #broken(): EtcdRequest {
    const path = this.#pick(["/v3/kv/put", "/v3/kv/range", "/v3/kv/txn", "/v3/kv/deleterange", "/v3/lease/revoke"]);
    const body = this.#pick([
      "x",
      "[]",
      '"a"',
      "5",
      '{"key":"YQ=',
      '{"key":5}',
      '{"key":"YQ"}',
      '{"key":"Y Q="}',
      '{"key":"YQ-_"}',
      '{"key":"YQ==",}',
      '{"ID":"x","lease":"x","limit":"x","compare":"x"}',
      '{"ID":1.5,"lease":1.5,"limit":1.5,"compare":[5]}',
      '{"prev_kv":1,"sort_order":"UP","compare":[{"result":"SAME"}],"TTL":true}',
      '{"nobody":"knows"} and more',
      "null",
      "",
    ]);
    return { path, body };
  }

  /** A transaction at the bound of operations, or one above. */
  #large(): EtcdRequest {
    const count = 126 + this.#below(4);
    const success = Array.from({ length: count }, (_, i) => ({ request_put: { key: b64(`t/${i}`) } }));
    const inner = { request_txn: { success: success.slice(0, this.#below(5)) } };
    const nested = this.#chance(50) ? [...success.slice(5), inner] : success;
    return { path: "/v3/kv/txn", body: { success: nested } };
  }

  next(): EtcdRequest {
    const roll = this.#below(1_000);
    if (roll < 300) return { path: "/v3/kv/put", body: this.put() };
    if (roll < 600) return { path: "/v3/kv/range", body: this.range() };
    if (roll < 800) return { path: "/v3/kv/txn", body: this.#plainTxn() };
    if (roll < 870) return { path: "/v3/kv/deleterange", body: this.deleteRange() };
    if (roll < 960) return this.#leaseRequest();
    if (roll < 975) return this.#broken();
    if (roll < 978) return this.#large();
    const { revision, compactRevision } = this.#known;
    const target = this.#chance(80)
      ? Math.max(compactRevision, revision - 40 - this.#below(40))
      : revision - 2 + this.#below(5);
    return { path: "/v3/kv/compaction", body: { revision: this.#number(target), physical: this.#chance(30) } };
  }

  /** A watch over the past and what comes. */
  watch(): Record<string, unknown> {
    const { revision, compactRevision } = this.#known;
    const from = this.#chance(10) ? Math.max(1, compactRevision - 2) : Math.max(1, revision - this.#below(60));
    return {
      ...this.#keyRange(),
      ...this.#some(70, () => ({ start_revision: this.#number(from) })),
      ...this.#some(50, () => ({ prev_kv: true })),
      ...this.#some(25, () => ({ filters: [this.#pick(["NOPUT", "NODELETE", 0, 1])] })),
      ...this.#some(20, () => ({ watch_id: this.#number(5 + this.#below(3)) })),
      ...this.#some(20, () => ({ fragment: true })),
    };
  }
}

function hasDuplicates(txn: Record<string, unknown>): boolean {
  try {
    checkOp(toTxn(readTxn(txn)));
    return false;
  } catch (error) {
    return error instanceof Fault && error.code === "duplicate_key";
  }
}
