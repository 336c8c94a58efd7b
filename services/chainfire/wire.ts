import type { MessageInitShape } from "@bufbuild/protobuf";
import { invalidField } from "@ultracloud/base";
import {
  AlarmType as WireAlarmType,
  CompareResult,
  Consistency,
  type DeleteRangeRequest,
  type DeleteRangeResponseSchema,
  type KeyValueSchema,
  type KvEventSchema,
  KvEventType,
  type PutRequest,
  type PutResponseSchema,
  type RangeRequest,
  type RangeResponseSchema,
  type RequestOp,
  type ResponseHeaderSchema,
  type ResponseOpSchema,
  SortOrder,
  SortTarget,
  type TxnRequest,
  type TxnResponseSchema,
} from "@ultracloud/proto/chainfire/v1";
import { noBytes } from "./domain/ranges.ts";
import type {
  Alarm,
  AlarmType,
  Compare,
  CompareResult as DomainCompareResult,
  DeleteOp,
  DeleteResult,
  KeyValue,
  KvEvent,
  Op,
  OpResult,
  PutOp,
  PutResult,
  RangeOp,
  RangeResult,
  SortTarget as DomainSortTarget,
  TxnOp,
  TxnResult,
} from "./domain/types.ts";

export type HeaderInit = MessageInitShape<typeof ResponseHeaderSchema>;
/** The header of an answer as of a revision. */
export type MakeHeader = (revision: number) => HeaderInit;

/** Revisions and counts; what is beyond any real one stays beyond. */
export function toNumber(value: bigint): number {
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}

/** Lease ids fill 63 bits: SQLite's integers are signed. */
export function toLeaseId(value: bigint, field: string): bigint {
  if (value < 2n ** 63n) return value;
  throw invalidField(field, `Cannot use ${value} as a lease id: wanted less than 2^63`);
}

/** Bytes of the state are never those of a shared buffer. */
export const wire = (bytes: Uint8Array) => bytes as Uint8Array<ArrayBuffer>;

const sortTargets: Readonly<Record<SortTarget, DomainSortTarget>> = {
  [SortTarget.UNSPECIFIED]: "key",
  [SortTarget.KEY]: "key",
  [SortTarget.VERSION]: "version",
  [SortTarget.CREATE_REVISION]: "create",
  [SortTarget.MOD_REVISION]: "mod",
  [SortTarget.VALUE]: "value",
};

const compareResults: Readonly<Record<CompareResult, DomainCompareResult>> = {
  [CompareResult.UNSPECIFIED]: "equal",
  [CompareResult.EQUAL]: "equal",
  [CompareResult.GREATER]: "greater",
  [CompareResult.LESS]: "less",
  [CompareResult.NOT_EQUAL]: "not_equal",
};

/** An enum's meaning, or an invalid_argument fault for a number this release does not know. */
function meaning<T>(table: Readonly<Record<number, T>>, value: number, field: string): T {
  const found = table[value];
  if (found === undefined) throw invalidField(field, `Cannot use ${value} as ${field}: wanted a known value`);
  return found;
}

export function isSerializable(request: RangeRequest): boolean {
  return request.consistency === Consistency.SERIALIZABLE;
}

export function toRange(request: RangeRequest): RangeOp {
  if (request.limit < 0n) throw invalidField("limit", `Cannot use ${request.limit} as limit: wanted 0 or more`);
  return {
    kind: "range",
    key: request.key,
    end: request.rangeEnd,
    limit: toNumber(request.limit),
    revision: toNumber(request.revision),
    descending: request.sortOrder === SortOrder.DESCEND,
    target: meaning(sortTargets, request.sortTarget, "sort_target"),
    keysOnly: request.keysOnly,
    countOnly: request.countOnly,
    minMod: toNumber(request.minModRevision),
    maxMod: toNumber(request.maxModRevision),
    minCreate: toNumber(request.minCreateRevision),
    maxCreate: toNumber(request.maxCreateRevision),
  };
}

export function toPut(request: PutRequest): PutOp {
  return {
    kind: "put",
    key: request.key,
    value: request.value,
    lease: toLeaseId(request.lease, "lease"),
    prevKv: request.prevKv,
    ignoreValue: request.ignoreValue,
    ignoreLease: request.ignoreLease,
  };
}

export function toDelete(request: DeleteRangeRequest): DeleteOp {
  return { kind: "delete", key: request.key, end: request.rangeEnd, prevKv: request.prevKv };
}

export function toTxn(request: TxnRequest): TxnOp {
  return {
    kind: "txn",
    compares: request.compare.map((compare, i): Compare => {
      const field = `compare[${i}]`;
      const { target } = compare;
      const range = {
        key: compare.key,
        end: compare.rangeEnd,
        result: meaning(compareResults, compare.result, `${field}.result`),
      };
      switch (target.case) {
        case "version":
        case "lease":
          return { ...range, target: target.case, operand: target.value };
        case "createRevision":
          return { ...range, target: "create", operand: target.value };
        case "modRevision":
          return { ...range, target: "mod", operand: target.value };
        case "value":
          return { ...range, target: "value", operand: target.value };
        case undefined:
          throw invalidField(`${field}.target`, `Cannot compare nothing in ${field}: wanted one of its targets`);
      }
    }),
    success: request.success.map((op, i) => toOp(op, `success[${i}]`)),
    failure: request.failure.map((op, i) => toOp(op, `failure[${i}]`)),
  };
}

/** A transaction reads as one with its writes: nothing of it may be older or in pages. */
function checkInTxn({ maxAgeMs, bytesMax }: RangeRequest, field: string): void {
  for (const [name, value] of [["max_age_ms", maxAgeMs], ["bytes_max", bytesMax]] as const) {
    if (value !== 0n) throw invalidField(`${field}.range.${name}`, `Cannot use ${name} inside a transaction`);
  }
}

function toOp({ request }: RequestOp, field: string): Op {
  switch (request.case) {
    case "range":
      checkInTxn(request.value, field);
      return toRange(request.value);
    case "put":
      return toPut(request.value);
    case "deleteRange":
      return toDelete(request.value);
    case "txn":
      return toTxn(request.value);
    case undefined:
      throw invalidField(`${field}.request`, `Cannot do nothing in ${field}: wanted one of its requests`);
  }
}

export function fromKv(kv: KeyValue): MessageInitShape<typeof KeyValueSchema> {
  return {
    key: wire(kv.key),
    value: wire(kv.value),
    createRevision: BigInt(kv.createRevision),
    modRevision: BigInt(kv.modRevision),
    version: BigInt(kv.version),
    lease: kv.lease,
  };
}

export function fromRange(result: RangeResult, header: MakeHeader): MessageInitShape<typeof RangeResponseSchema> {
  return {
    header: header(result.revision),
    kvs: result.kvs.map(fromKv),
    more: result.more,
    count: BigInt(result.count),
  };
}

export function fromPut(result: PutResult, header: MakeHeader): MessageInitShape<typeof PutResponseSchema> {
  const prev = result.prev ? { prevKv: fromKv(result.prev) } : {};
  return { header: header(result.revision), ...prev };
}

export function fromDelete(
  result: DeleteResult,
  header: MakeHeader,
): MessageInitShape<typeof DeleteRangeResponseSchema> {
  return { header: header(result.revision), deleted: BigInt(result.deleted), prevKvs: result.prevs.map(fromKv) };
}

export function fromTxn(result: TxnResult, header: MakeHeader): MessageInitShape<typeof TxnResponseSchema> {
  return {
    header: header(result.revision),
    succeeded: result.succeeded,
    responses: result.results.map((inner) => fromOp(inner, header)),
  };
}

function fromOp(result: OpResult, header: MakeHeader): MessageInitShape<typeof ResponseOpSchema> {
  switch (result.kind) {
    case "range":
      return { response: { case: "range", value: fromRange(result, header) } };
    case "put":
      return { response: { case: "put", value: fromPut(result, header) } };
    case "delete":
      return { response: { case: "deleteRange", value: fromDelete(result, header) } };
    case "txn":
      return { response: { case: "txn", value: fromTxn(result, header) } };
  }
}

export function fromEvent(event: KvEvent, prevKv: boolean): MessageInitShape<typeof KvEventSchema> {
  const prev = prevKv && event.prev ? { prevKv: fromKv(event.prev) } : {};
  if (event.type === "put") return { type: KvEventType.PUT, kv: fromKv(event.kv), ...prev };
  const { key, modRevision } = event.kv;
  return {
    type: KvEventType.DELETE,
    kv: { key: wire(key), value: wire(noBytes), modRevision: BigInt(modRevision) },
    ...prev,
  };
}

const alarmTypes: Readonly<Record<AlarmType, WireAlarmType>> = {
  no_space: WireAlarmType.NOSPACE,
  corrupt: WireAlarmType.CORRUPT,
};

export function fromAlarm({ member, type }: Alarm): { memberId: bigint; type: WireAlarmType } {
  return { memberId: BigInt(member), type: alarmTypes[type] };
}
