import { create } from "@bufbuild/protobuf";
import {
  CompactRequestSchema,
  type Compare,
  CompareResult,
  CompareSchema,
  Consistency,
  type DeleteRangeRequest,
  DeleteRangeRequestSchema,
  KvService,
  type PutRequest,
  type RangeRequest,
  type RequestOp,
  RequestOpSchema,
  SortOrder,
  SortTarget,
  type TxnRequest,
  TxnRequestSchema,
} from "@ultracloud/proto/chainfire/v1";
import { txnOpsMax } from "../domain/limits.ts";
import { rejections } from "../errors.ts";
import { deleteAnswer, headerAnswer, putAnswer, rangeAnswer, txnAnswer } from "./encode.ts";
import { bool, bytes, int64, type Json, list, object, oneOf } from "./json_read.ts";
import { type UnaryPath, unaryPath } from "./wire.ts";

const sortOrders = ["NONE", "ASCEND", "DESCEND"] as const;
const sortTargets = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"] as const;
const compareResults = ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"] as const;
const compareTargets = ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"] as const;

const toSortTarget = {
  KEY: SortTarget.KEY,
  VERSION: SortTarget.VERSION,
  CREATE: SortTarget.CREATE_REVISION,
  MOD: SortTarget.MOD_REVISION,
  VALUE: SortTarget.VALUE,
} as const;

/** Larger than any revision, version or lease. */
const beyond = 2n ** 64n - 1n;

/** etcd takes what is below 0 as not given. */
const positive = (value: unknown): bigint => {
  const number = int64(value);
  return number < 0n ? 0n : number;
};

export function readRange(json: Json): RangeRequest {
  const min = positive(json.min_mod_revision ?? json.minModRevision);
  const max = int64(json.max_mod_revision ?? json.maxModRevision);
  const minCreate = positive(json.min_create_revision ?? json.minCreateRevision);
  const maxCreate = int64(json.max_create_revision ?? json.maxCreateRevision);
  const serializable = bool(json.serializable);
  // A literal, as in readPut: `create` costs more than the rest of reading.
  return {
    $typeName: "ultracloud.chainfire.v1.RangeRequest",
    key: bytes(json.key),
    rangeEnd: bytes(json.range_end ?? json.rangeEnd),
    limit: positive(json.limit),
    revision: positive(json.revision),
    consistency: serializable ? Consistency.SERIALIZABLE : Consistency.LINEARIZABLE,
    sortOrder: oneOf(json.sort_order ?? json.sortOrder, sortOrders, "etcdserverpb.RangeRequest_SortOrder") === "DESCEND"
      ? SortOrder.DESCEND
      : SortOrder.ASCEND,
    sortTarget:
      toSortTarget[oneOf(json.sort_target ?? json.sortTarget, sortTargets, "etcdserverpb.RangeRequest_SortTarget")],
    keysOnly: bool(json.keys_only ?? json.keysOnly),
    countOnly: bool(json.count_only ?? json.countOnly),
    // Nothing is below 0: such a bound lets no key through, as one beyond everything.
    minModRevision: max < 0n ? beyond : min,
    maxModRevision: max < 0n ? 0n : max,
    minCreateRevision: maxCreate < 0n ? beyond : minCreate,
    maxCreateRevision: maxCreate < 0n ? 0n : maxCreate,
    maxAgeMs: 0n,
    bytesMax: 0n,
  };
}

export function readPut(json: Json): PutRequest {
  return {
    $typeName: "ultracloud.chainfire.v1.PutRequest",
    key: bytes(json.key),
    value: bytes(json.value),
    lease: readLease(json.lease),
    prevKv: bool(json.prev_kv ?? json.prevKv),
    ignoreValue: bool(json.ignore_value ?? json.ignoreValue),
    ignoreLease: bool(json.ignore_lease ?? json.ignoreLease),
  };
}

/** Lease ids below 0 exist at etcd and not here: such a lease is not found. */
export function readLease(value: unknown): bigint {
  const id = int64(value);
  if (id < 0n) throw rejections.leaseNotFound(id);
  return id;
}

export function readDelete(json: Json): DeleteRangeRequest {
  return create(DeleteRangeRequestSchema, {
    key: bytes(json.key),
    rangeEnd: bytes(json.range_end ?? json.rangeEnd),
    prevKv: bool(json.prev_kv ?? json.prevKv),
  });
}

/** Refuses what etcd refuses about a transaction's shape: each level may hold what the level above left of the bound. */
export function readTxn(json: Json, opsMax = txnOpsMax): TxnRequest {
  const compare = list(json.compare);
  const success = list(json.success);
  const failure = list(json.failure);
  const ops = Math.max(compare.length, success.length, failure.length);
  if (ops > opsMax) throw rejections.tooManyOps("compare", ops, opsMax);
  return create(TxnRequestSchema, {
    compare: compare.map(readCompare),
    success: success.map((op) => readOp(op, opsMax - ops)),
    failure: failure.map((op) => readOp(op, opsMax - ops)),
  });
}

function readOp(value: unknown, opsMax: number): RequestOp {
  const json = object(value) ?? {};
  const range = object(json.request_range ?? json.requestRange);
  if (range) return create(RequestOpSchema, { request: { case: "range", value: keyed(readRange(range)) } });
  const put = object(json.request_put ?? json.requestPut);
  if (put) return create(RequestOpSchema, { request: { case: "put", value: possible(readPut(put)) } });
  const gone = object(json.request_delete_range ?? json.requestDeleteRange);
  if (gone) return create(RequestOpSchema, { request: { case: "deleteRange", value: keyed(readDelete(gone)) } });
  const txn = object(json.request_txn ?? json.requestTxn);
  if (txn) return create(RequestOpSchema, { request: { case: "txn", value: readTxn(txn, opsMax) } });
  throw rejections.keyNotFound();
}

/** Refuses here what the service would too: an operation that is none must be found in its turn among them. */
function keyed<T extends { readonly key: Uint8Array }>(op: T): T {
  if (op.key.length === 0) throw rejections.emptyKey("key");
  return op;
}

function possible(put: PutRequest): PutRequest {
  keyed(put);
  if (put.ignoreValue && put.value.length > 0) throw rejections.valueProvided("value");
  if (put.ignoreLease && put.lease !== 0n) throw rejections.leaseProvided("lease");
  return put;
}

const toResult = {
  EQUAL: CompareResult.EQUAL,
  GREATER: CompareResult.GREATER,
  LESS: CompareResult.LESS,
  NOT_EQUAL: CompareResult.NOT_EQUAL,
} as const;

function readCompare(value: unknown): Compare {
  const json = object(value) ?? {};
  const result = toResult[oneOf(json.result, compareResults, "etcdserverpb.Compare_CompareResult")];
  const range = keyed({ key: bytes(json.key), rangeEnd: bytes(json.range_end ?? json.rangeEnd) });
  const target = oneOf(json.target, compareTargets, "etcdserverpb.Compare_CompareTarget");
  if (target === "VALUE") {
    return create(CompareSchema, { ...range, result, target: { case: "value", value: bytes(json.value) } });
  }
  const operand = int64(operandOf(json, target));
  // Everything is greater than what is below 0; the wire here has no such numbers.
  const holds = result === CompareResult.GREATER || result === CompareResult.NOT_EQUAL;
  const number = operand < 0n
    ? { result: holds ? CompareResult.NOT_EQUAL : CompareResult.EQUAL, value: beyond }
    : { result, value: operand };
  const cases = { VERSION: "version", CREATE: "createRevision", MOD: "modRevision", LEASE: "lease" } as const;
  return create(CompareSchema, {
    ...range,
    result: number.result,
    target: { case: cases[target], value: number.value },
  });
}

function operandOf(json: Json, target: Exclude<typeof compareTargets[number], "VALUE">): unknown {
  switch (target) {
    case "VERSION":
      return json.version;
    case "CREATE":
      return json.create_revision ?? json.createRevision;
    case "MOD":
      return json.mod_revision ?? json.modRevision;
    case "LEASE":
      return json.lease;
  }
}

const { method } = KvService;

export const kvPaths: Readonly<Record<string, UnaryPath>> = {
  "/v3/kv/range": unaryPath(method.range, readRange, rangeAnswer),
  "/v3/kv/put": unaryPath(method.put, readPut, putAnswer),
  "/v3/kv/deleterange": unaryPath(method.deleteRange, readDelete, deleteAnswer),
  "/v3/kv/txn": unaryPath(method.txn, readTxn, txnAnswer),
  "/v3/kv/compaction": unaryPath(method.compact, readCompaction, headerAnswer),
};

function readCompaction(json: Json) {
  const revision = int64(json.revision);
  if (revision <= 0n) throw rejections.compacted(Number(revision), 0);
  return create(CompactRequestSchema, { revision, physical: bool(json.physical) });
}
