import { assert } from "@ultracloud/base";
import type { CommandResult, KeyValue, OpResult } from "../domain/types.ts";
import { Reader, Writer } from "./bytes.ts";

/** First byte of every stored answer. */
const resultVersion = 1;
// Order is the encoding: append only.
const resultKinds = ["range", "put", "delete", "txn", "revision", "lease", "session"] as const;

/** An answer as it is remembered under an idempotency key. */
export function encodeResult(result: CommandResult): Uint8Array<ArrayBuffer> {
  const w = new Writer();
  w.byte(resultVersion);
  writeResult(w, result);
  return w.finish();
}

export function decodeResult(bytes: Uint8Array): CommandResult {
  const r = new Reader(bytes);
  assert(r.byte() === resultVersion, `A stored answer must have version ${resultVersion}`);
  return readResult(r);
}

function writeResult(w: Writer, result: CommandResult): void {
  w.byte(resultKinds.indexOf(result.kind)).uint(result.revision);
  switch (result.kind) {
    case "range":
      return void w.list(result.kvs, (kv) => writeKv(w, kv)).flag(result.more).uint(result.count);
    case "put":
      w.flag(result.prev !== undefined);
      if (result.prev) writeKv(w, result.prev);
      return;
    case "delete":
      return void w.uint(result.deleted).list(result.prevs, (kv) => writeKv(w, kv));
    case "txn":
      return void w.flag(result.succeeded).list(result.results, (inner) => writeResult(w, inner));
    case "lease":
      return void w.uint64(result.id).uint(result.ttlMs);
    case "session":
      return void w.uint64(result.id);
    case "revision":
      return;
  }
}

function readResult(r: Reader): CommandResult {
  const kind = resultKinds[r.byte()];
  const revision = r.uint();
  switch (kind) {
    case "range":
      return { kind, revision, kvs: r.list(() => readKv(r)), more: r.flag(), count: r.uint() };
    case "put":
      return { kind, revision, prev: r.flag() ? readKv(r) : undefined };
    case "delete":
      return { kind, revision, deleted: r.uint(), prevs: r.list(() => readKv(r)) };
    case "txn":
      return { kind, revision, succeeded: r.flag(), results: r.list(() => readResult(r) as OpResult) };
    case "lease":
      return { kind, revision, id: r.uint64(), ttlMs: r.uint() };
    case "session":
      return { kind, revision, id: r.uint64() };
    case "revision":
      return { kind, revision };
    default:
      throw new TypeError("Cannot read a stored answer of an unknown kind");
  }
}

function writeKv(w: Writer, kv: KeyValue): void {
  w.bytes(kv.key).bytes(kv.value).uint(kv.createRevision).uint(kv.modRevision).uint(kv.version).uint64(kv.lease);
}

function readKv(r: Reader): KeyValue {
  return {
    key: r.bytes(),
    value: r.bytes(),
    createRevision: r.uint(),
    modRevision: r.uint(),
    version: r.uint(),
    lease: r.uint64(),
  };
}
