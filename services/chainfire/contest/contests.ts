import { fault, type Rng, utf8 } from "@ultracloud/base";
import { noBytes } from "../domain/ranges.ts";
import { prefixRange } from "../domain/namespaces.ts";
import type { KeyValue, RangeOp, TxnOp, TxnResult } from "../domain/types.ts";
import { checkOp } from "../domain/check.ts";
import { rejections } from "../errors.ts";
import { grantLease } from "../lease_service.ts";
import type { Member } from "../member.ts";
import { toLeaseId } from "../wire.ts";
import type { KeyWaits } from "./key_waits.ts";

/** Who takes part, and for how long. */
export interface Entrant {
  readonly name: Uint8Array;
  /** 0n: one is granted. */
  readonly lease: bigint;
  readonly ttlMs: bigint;
  readonly value: Uint8Array;
  /** 0n: as long as the call; negative: not at all. */
  readonly waitMs: bigint;
}

/** The key that holds a place; its creation is the fencing token. */
export interface Place {
  readonly key: Uint8Array;
  readonly createRevision: number;
  readonly lease: bigint;
}

const slash = utf8.encode("/");

/** Every key of a contest begins so. */
export function contestPrefix(name: Uint8Array): Uint8Array {
  return concat(name, slash);
}

/** The key of a place, as etcd makes it: name, slash, lease in hexadecimal. */
function placeKey(name: Uint8Array, lease: bigint): Uint8Array {
  return concat(contestPrefix(name), utf8.encode(lease.toString(16)));
}

/** True for a key that some place has: its end is the lease it holds. */
export function isPlace(kv: KeyValue): boolean {
  const end = utf8.encode(`/${kv.lease.toString(16)}`);
  const at = kv.key.length - end.length;
  return kv.lease !== 0n && at > 0 && end.every((byte, i) => kv.key[at + i] === byte);
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

const rangeOf = (more: Partial<RangeOp> & Pick<RangeOp, "key">): RangeOp => ({
  kind: "range",
  end: noBytes,
  limit: 0,
  revision: 0,
  descending: false,
  target: "key",
  keysOnly: false,
  countOnly: false,
  minMod: 0,
  maxMod: 0,
  minCreate: 0,
  maxCreate: 0,
  ...more,
});

/**
 * Contests for a name: whoever's key was created first has it, the others wait in the order of creation. All of it is
 * keys of the store, so that a waiting call goes on under another leader and another member.
 */
export class Contests {
  readonly #member: Member;
  readonly #waits: KeyWaits;
  readonly #rng: Rng;

  constructor(member: Member, deps: { readonly waits: KeyWaits; readonly rng: Rng }) {
    this.#member = member;
    this.#waits = deps.waits;
    this.#rng = deps.rng;
  }

  /** Takes a place and waits until it is the first. Whoever leaves before gives it up. */
  async win(entrant: Entrant, signal: AbortSignal): Promise<Place> {
    if (entrant.name.length === 0) throw rejections.emptyKey("name");
    const { lease, granted } = await this.#lease(entrant);
    const giveUp = async (place?: Place) => {
      try {
        if (granted) await this.#member.propose({ kind: "revoke", id: lease });
        else if (place) await this.leave(place);
      } catch {
        // Nobody leads, or another member does: the place goes with its lease.
      }
    };
    let place: Place | undefined;
    try {
      place = await this.#enter(entrant, lease);
      await this.#turn(entrant, place, signal);
      return place;
    } catch (error) {
      await giveUp(place);
      throw error;
    }
  }

  async #lease({ lease, ttlMs }: Entrant): Promise<{ lease: bigint; granted: boolean }> {
    if (lease !== 0n) return { lease: toLeaseId(lease, "lease"), granted: false };
    const { id } = await grantLease(this.#member, { id: 0n, ttlMs }, this.#rng);
    return { lease: id, granted: true };
  }

  /** Puts the key, unless it is there: then its place is kept. */
  async #enter({ name, value }: Entrant, lease: bigint): Promise<Place> {
    const key = placeKey(name, lease);
    const put = { kind: "put", key, value, lease, prevKv: false, ignoreValue: false, ignoreLease: false } as const;
    const txn: TxnOp = {
      kind: "txn",
      compares: [{ key, end: noBytes, result: "equal", target: "create", operand: 0n }],
      success: [put],
      failure: [rangeOf({ key })],
    };
    checkOp(txn);
    this.#member.checkSpace();
    this.#member.checkRate(txn);
    const result = await this.#member.propose(txn) as TxnResult;
    const [answer] = result.results;
    if (answer?.kind !== "range") return { key, createRevision: result.revision, lease };
    const there = answer.kvs[0]!;
    // A lease of its own makes the key its own; another value is the newest word of the same contender.
    if (!there.value.every((byte, i) => byte === value[i]) || there.value.length !== value.length) {
      await this.#member.propose(put);
    }
    return { key, createRevision: there.createRevision, lease };
  }

  async #turn({ name, waitMs }: Entrant, place: Place, signal: AbortSignal): Promise<void> {
    using timer = timeLimit(waitMs, signal);
    for (;;) {
      const before = this.#before(name, place);
      if (!before) {
        // What was seen here may be old on a member that lags: the key must be there now.
        await this.#member.group.readBarrier();
        if (!this.#holds(place)) throw lost();
        return;
      }
      if (waitMs < 0n) {
        throw fault("failed_precondition", "lock_held", "Cannot have the name at once as others hold or wait for it");
      }
      if (!this.#holds(place)) throw lost();
      await this.#waits.forKeys([before.key, place.key], timer.signal);
    }
  }

  /** The newest place that was taken before. */
  #before(name: Uint8Array, place: Place): KeyValue | undefined {
    const older = { maxCreate: place.createRevision - 1, target: "create", descending: true } as const;
    return this.#member.state.range(
      rangeOf({ ...prefixRange(contestPrefix(name)), ...older, limit: 1, keysOnly: true }),
    )
      .kvs[0];
  }

  #holds({ key, createRevision }: Place): boolean {
    return this.#member.state.range(rangeOf({ key, keysOnly: true })).kvs[0]?.createRevision === createRevision;
  }

  /** Deletes the key if it is still the same place; answers whether it was. */
  async leave({ key, createRevision }: Pick<Place, "key" | "createRevision">): Promise<TxnResult> {
    return await this.#guarded(key, createRevision, { kind: "delete", key, end: noBytes, prevKv: false });
  }

  /** Replaces the value if it is still the same place. */
  async proclaim({ key, createRevision }: Place, value: Uint8Array): Promise<TxnResult> {
    const put = { kind: "put", key, value, lease: 0n, prevKv: false, ignoreValue: false, ignoreLease: true } as const;
    return await this.#guarded(key, createRevision, put);
  }

  async #guarded(key: Uint8Array, createRevision: number, op: TxnOp["success"][number]): Promise<TxnResult> {
    const operand = BigInt(createRevision);
    const txn: TxnOp = {
      kind: "txn",
      compares: [{ key, end: noBytes, result: "equal", target: "create", operand }],
      success: [op],
      failure: [],
    };
    checkOp(txn);
    return await this.#member.propose(txn) as TxnResult;
  }

  /** The place that has the name, as this member knows it. */
  first(name: Uint8Array): KeyValue | undefined {
    return this.#member.state.range(rangeOf({ ...prefixRange(contestPrefix(name)), target: "create", limit: 1 }))
      .kvs[0];
  }

  /** The key as this member knows it. */
  get(key: Uint8Array): KeyValue | undefined {
    return this.#member.state.range(rangeOf({ key })).kvs[0];
  }
}

function lost() {
  return fault(
    "failed_precondition",
    "lease_ended",
    "Cannot wait any longer: the place is gone, its lease ended or its key was deleted",
  );
}

/** A signal that also ends when the time to wait is over. */
function timeLimit(waitMs: bigint, signal: AbortSignal): Disposable & { readonly signal: AbortSignal } {
  if (waitMs <= 0n) return { signal, [Symbol.dispose]: () => {} };
  const over = new AbortController();
  const end = () => over.abort(signal.reason);
  signal.addEventListener("abort", end, { once: true });
  const timer = setTimeout(
    () => over.abort(fault("deadline_exceeded", "lock_wait_over", `Cannot have the name within ${waitMs} ms`)),
    Number(waitMs < 2n ** 31n ? waitMs : 2n ** 31n - 1n),
  );
  return {
    signal: over.signal,
    [Symbol.dispose]: () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    },
  };
}
