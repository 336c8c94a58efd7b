import { assert, unreachable } from "@ultracloud/base";
import { adminKinds, isAdmin, isAdminKind, readAdmin, writeAdmin } from "./admin_codec.ts";
import type {
  Command,
  Compare,
  KeyRange,
  LogEntry,
  Op,
  PutOp,
  RangeOp,
  SessionCall,
  SortTarget,
} from "../domain/types.ts";
import { Reader, Writer } from "./bytes.ts";

/**
 * First byte of every entry; another layout takes another number and both are read for a release. A number of 2 says
 * that a client session may follow: only entries that have one carry it.
 */
const entryVersion = 1;
const entryVersionWithSession = 2;

/** What names the call behind an entry. */
const origins = { none: 0, call: 1, session: 2 } as const;

// Order is the encoding: append only.
const commandKinds = [
  "put",
  "delete",
  "txn",
  "compact",
  "grant",
  "revoke",
  "keep_alive",
  "expire",
  "range",
  ...adminKinds,
] as const;
const sortTargets: readonly SortTarget[] = ["key", "version", "create", "mod", "value"];
const compareResults = ["equal", "greater", "less", "not_equal"] as const;
const compareTargets = ["version", "create", "mod", "value", "lease"] as const;

/** The bytes the log carries. */
export function encodeEntry(entry: LogEntry): Uint8Array<ArrayBuffer> {
  const w = new Writer(entry.command.kind === "put" ? 48 + entry.command.key.length + entry.command.value.length : 256);
  const { call, session } = entry;
  w.byte(session ? entryVersionWithSession : entryVersion).uint(entry.clockMs);
  if (session) {
    w.byte(origins.session).text(session.caller).uint64(session.session).uint(session.sequence)
      .uint(session.answeredBelow).uint(session.bodyHash);
  } else if (call) w.byte(origins.call).text(call.caller).text(call.key).text(call.bodyHash);
  else w.byte(origins.none);
  writeCommand(w, entry.command);
  return w.finish();
}

export function decodeEntry(bytes: Uint8Array): LogEntry {
  const r = new Reader(bytes);
  const version = r.byte();
  assert(
    version === entryVersion || version === entryVersionWithSession,
    `A log entry must have version ${entryVersion} or ${entryVersionWithSession}, this one has ${version}`,
  );
  const clockMs = r.uint();
  const origin = r.byte();
  const call = origin === origins.call ? { caller: r.text(), key: r.text(), bodyHash: r.text() } : undefined;
  const session = origin === origins.session ? readSession(r) : undefined;
  const command = readCommand(r);
  assert(command.kind !== "range" && r.done, "A log entry must hold one command that writes");
  return { clockMs, call, session, command };
}

/** The same entry at another reading of the lease clock. */
export function restampEntry(bytes: Uint8Array, clockMs: number): Uint8Array<ArrayBuffer> {
  const r = new Reader(bytes);
  const w = new Writer(bytes.length + 8).byte(r.byte()).uint(clockMs);
  r.uint();
  return w.rest(r).finish();
}

function readSession(r: Reader): SessionCall {
  return {
    caller: r.text(),
    session: r.uint64(),
    sequence: r.uint(),
    answeredBelow: r.uint(),
    bodyHash: r.uint(),
  };
}

function writeCommand(w: Writer, command: Command | RangeOp): void {
  w.byte(commandKinds.indexOf(command.kind));
  if (isAdmin(command)) return writeAdmin(w, command);
  switch (command.kind) {
    case "put":
      return writePut(w, command);
    case "delete":
      return void writeRange(w, command).flag(command.prevKv);
    case "range":
      return void writeRange(w, command).uint(command.limit).uint(command.revision)
        .flag(command.descending).byte(sortTargets.indexOf(command.target)).flag(command.keysOnly)
        .flag(command.countOnly).uint(command.minMod).uint(command.maxMod).uint(command.minCreate)
        .uint(command.maxCreate);
    case "txn":
      return void w.list(command.compares, (compare) => writeCompare(w, compare))
        .list(command.success, (op) => writeCommand(w, op)).list(command.failure, (op) => writeCommand(w, op));
    case "compact":
      return void w.uint(command.revision);
    case "grant":
      return void w.uint64(command.id).uint(command.ttlMs);
    case "revoke":
    case "keep_alive":
      return void w.uint64(command.id);
    case "expire":
      return;
    default:
      unreachable(command);
  }
}

function readCommand(r: Reader): Command | RangeOp {
  const kind = commandKinds[r.byte()];
  if (kind !== undefined && isAdminKind(kind)) return readAdmin(r, kind);
  switch (kind) {
    case "put":
      return readPut(r);
    case "delete":
      return { kind, ...readRange(r), prevKv: r.flag() };
    case "range":
      return {
        kind,
        ...readRange(r),
        limit: r.uint(),
        revision: r.uint(),
        descending: r.flag(),
        target: sortTargets[r.byte()]!,
        keysOnly: r.flag(),
        countOnly: r.flag(),
        minMod: r.uint(),
        maxMod: r.uint(),
        minCreate: r.uint(),
        maxCreate: r.uint(),
      };
    case "txn":
      return {
        kind,
        compares: r.list(() => readCompare(r)),
        success: r.list(() => readCommand(r) as Op),
        failure: r.list(() => readCommand(r) as Op),
      };
    case "compact":
      return { kind, revision: r.uint() };
    case "grant":
      return { kind, id: r.uint64(), ttlMs: r.uint() };
    case "revoke":
    case "keep_alive":
      return { kind, id: r.uint64() };
    case "expire":
      return { kind };
    case undefined:
      throw new TypeError("Cannot read a log entry with an unknown command");
    default:
      unreachable(kind);
  }
}

function writePut(w: Writer, op: PutOp): void {
  w.bytes(op.key).bytes(op.value).uint64(op.lease).flag(op.prevKv).flag(op.ignoreValue).flag(op.ignoreLease);
}

function readPut(r: Reader): PutOp {
  return {
    kind: "put",
    key: r.bytes(),
    value: r.bytes(),
    lease: r.uint64(),
    prevKv: r.flag(),
    ignoreValue: r.flag(),
    ignoreLease: r.flag(),
  };
}

function writeRange(w: Writer, range: KeyRange): Writer {
  return w.bytes(range.key).bytes(range.end);
}

function readRange(r: Reader): KeyRange {
  return { key: r.bytes(), end: r.bytes() };
}

function writeCompare(w: Writer, compare: Compare): void {
  writeRange(w, compare).byte(compareResults.indexOf(compare.result)).byte(compareTargets.indexOf(compare.target));
  if (typeof compare.operand === "bigint") w.uint64(compare.operand);
  else w.bytes(compare.operand);
}

function readCompare(r: Reader): Compare {
  const range = readRange(r);
  const result = compareResults[r.byte()]!;
  const target = compareTargets[r.byte()]!;
  return { ...range, result, target, operand: target === "value" ? r.bytes() : r.uint64() };
}
