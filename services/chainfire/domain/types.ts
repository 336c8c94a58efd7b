/** Keys with revisions, leases, and what can be done to them. Revisions stay below 2^53; lease ids fill 63 bits. */

export interface KeyValue {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
  readonly createRevision: number;
  readonly modRevision: number;
  /** Writes since creation, 1 for a new key. */
  readonly version: number;
  /** 0n: none. */
  readonly lease: bigint;
}

/** `end` empty: the one key; a single zero byte: every key from `key` on; otherwise half open. */
export interface KeyRange {
  readonly key: Uint8Array;
  readonly end: Uint8Array;
}

export type SortTarget = "key" | "version" | "create" | "mod" | "value";

export interface RangeOp extends KeyRange {
  readonly kind: "range";
  /** 0: none. */
  readonly limit: number;
  /** 0: now. */
  readonly revision: number;
  readonly descending: boolean;
  readonly target: SortTarget;
  readonly keysOnly: boolean;
  readonly countOnly: boolean;
  /** Bounds on revisions, 0 for none. */
  readonly minMod: number;
  readonly maxMod: number;
  readonly minCreate: number;
  readonly maxCreate: number;
}

export interface PutOp {
  readonly kind: "put";
  readonly key: Uint8Array;
  readonly value: Uint8Array;
  readonly lease: bigint;
  readonly prevKv: boolean;
  readonly ignoreValue: boolean;
  readonly ignoreLease: boolean;
}

export interface DeleteOp extends KeyRange {
  readonly kind: "delete";
  readonly prevKv: boolean;
}

export type CompareResult = "equal" | "greater" | "less" | "not_equal";

/** Holds when every key of the range compares so; no key at all counts as one of zeros, and never holds for a value. */
export interface Compare extends KeyRange {
  readonly result: CompareResult;
  readonly target: "version" | "create" | "mod" | "value" | "lease";
  /** Bytes for a value, a number otherwise. */
  readonly operand: Uint8Array | bigint;
}

export interface TxnOp {
  readonly kind: "txn";
  readonly compares: readonly Compare[];
  readonly success: readonly Op[];
  readonly failure: readonly Op[];
}

export type Op = RangeOp | PutOp | DeleteOp | TxnOp;

/** What the log carries. */
export type Command =
  | PutOp
  | DeleteOp
  | TxnOp
  | { readonly kind: "compact"; readonly revision: number }
  | { readonly kind: "grant"; readonly id: bigint; readonly ttlMs: number }
  | { readonly kind: "revoke"; readonly id: bigint }
  | { readonly kind: "keep_alive"; readonly id: bigint }
  /** Time passed: leases whose deadline is over end. */
  | { readonly kind: "expire" }
  | { readonly kind: "open_session"; readonly caller: string }
  | { readonly kind: "close_session"; readonly caller: string; readonly id: bigint }
  | { readonly kind: "set_quota"; readonly quota: Quota }
  | { readonly kind: "delete_quota"; readonly namespace: Uint8Array }
  | { readonly kind: "raise_alarm"; readonly alarm: Alarm }
  | { readonly kind: "clear_alarm"; readonly alarm: Alarm }
  /** A member with an id that nobody had. */
  | { readonly kind: "add_member"; readonly member: MemberInfo }
  | { readonly kind: "update_member"; readonly member: MemberInfo }
  | { readonly kind: "remove_member"; readonly id: number }
  /** The member gets its vote as soon as it has caught up. */
  | { readonly kind: "await_promotion"; readonly id: number }
  /** Members note their hash here and report it. */
  | { readonly kind: "check_hash" }
  | { readonly kind: "report_hash"; readonly member: number; readonly check: number; readonly hash: number };

/** Bounds on the keys that begin with a prefix; 0: no bound. */
export interface Quota {
  readonly namespace: Uint8Array;
  readonly bytesMax: number;
  readonly keysMax: number;
  readonly leasesMax: number;
  readonly watchesMax: number;
  readonly writesPerSecondMax: number;
}

/** What the keys of a namespace use. */
export interface QuotaUsage {
  /** Keys and present values. */
  readonly bytes: number;
  readonly keys: number;
  /** Leases that hold a key of it. */
  readonly leases: number;
}

export type AlarmType = "no_space" | "corrupt";

export interface Alarm {
  readonly member: number;
  readonly type: AlarmType;
}

/** Where a member is reached. */
export interface MemberInfo {
  readonly id: number;
  readonly name: string;
  readonly peerUrl: string;
  readonly clientUrl: string;
}

/** Names a call for good, so that its repetition is answered instead of done again. */
export interface CallKey {
  readonly caller: string;
  readonly key: string;
  readonly bodyHash: string;
}

/** Names a write of a client session, so that its repetition is answered instead of done again. */
export interface SessionCall {
  readonly caller: string;
  readonly session: bigint;
  readonly sequence: number;
  /** The client has the answers to every sequence below it. */
  readonly answeredBelow: number;
  /** CRC-32 of the request: another one under the same sequence is a mismatch. */
  readonly bodyHash: number;
}

export interface LogEntry {
  /** The leader's reading of the lease clock when it proposed; the clock of the state never goes back. */
  readonly clockMs: number;
  readonly call: CallKey | undefined;
  /** Never together with `call`. */
  readonly session?: SessionCall | undefined;
  readonly command: Command;
}

export interface RangeResult {
  readonly kind: "range";
  readonly revision: number;
  readonly kvs: readonly KeyValue[];
  readonly more: boolean;
  readonly count: number;
}
export interface PutResult {
  readonly kind: "put";
  readonly revision: number;
  readonly prev: KeyValue | undefined;
}
export interface DeleteResult {
  readonly kind: "delete";
  readonly revision: number;
  readonly deleted: number;
  readonly prevs: readonly KeyValue[];
}
export interface TxnResult {
  readonly kind: "txn";
  readonly revision: number;
  readonly succeeded: boolean;
  readonly results: readonly OpResult[];
}
export type OpResult = RangeResult | PutResult | DeleteResult | TxnResult;

/** Answer to a compaction, a revocation or an expiry. */
export interface RevisionResult {
  readonly kind: "revision";
  readonly revision: number;
}
export interface LeaseResult {
  readonly kind: "lease";
  readonly revision: number;
  readonly id: bigint;
  readonly ttlMs: number;
}
export interface SessionResult {
  readonly kind: "session";
  readonly revision: number;
  readonly id: bigint;
}
export type CommandResult = OpResult | RevisionResult | LeaseResult | SessionResult;

export type LeaseChange = "granted" | "renewed" | "revoked" | "expired";

/** One lease's change. */
export interface LeaseEvent {
  readonly type: LeaseChange;
  readonly id: bigint;
  readonly ttlMs: number;
}

/** One key's change. `kv` of a delete has key and modRevision only. */
export interface KvEvent {
  readonly type: "put" | "delete";
  readonly kv: KeyValue;
  /** The key before the change; undefined when it did not exist or is compacted away. */
  readonly prev: KeyValue | undefined;
}
