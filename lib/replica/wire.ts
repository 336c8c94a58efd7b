import { create } from "@bufbuild/protobuf";
import { fault } from "@ultracloud/base";
import {
  EntryKind as WireEntryKind,
  type Message as WireMessage,
  MessageKind as WireKind,
  MessageSchema,
} from "@ultracloud/proto/raft/v1";
import type { Entry, Message, MessageKind } from "@ultracloud/raft";

const kinds: readonly (readonly [MessageKind, WireKind])[] = [
  ["append", WireKind.APPEND],
  ["append_response", WireKind.APPEND_RESPONSE],
  ["heartbeat", WireKind.HEARTBEAT],
  ["heartbeat_response", WireKind.HEARTBEAT_RESPONSE],
  ["pre_vote", WireKind.PRE_VOTE],
  ["pre_vote_response", WireKind.PRE_VOTE_RESPONSE],
  ["vote", WireKind.VOTE],
  ["vote_response", WireKind.VOTE_RESPONSE],
  ["timeout_now", WireKind.TIMEOUT_NOW],
  ["read_index", WireKind.READ_INDEX],
  ["read_index_response", WireKind.READ_INDEX_RESPONSE],
  ["snapshot_status", WireKind.SNAPSHOT_STATUS],
];
const toWireKind = new Map(kinds);
const fromWireKind = new Map(kinds.map(([kind, wire]) => [wire, kind]));

/** A counter from another replica; one beyond 2^53 is no counter of ours. */
export function safe(value: bigint): number {
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw fault(
    "invalid_argument",
    "number_too_large",
    `Cannot take ${value} from another replica: wanted less than 2^53`,
  );
}

export function toWire(m: Message): WireMessage {
  return create(MessageSchema, {
    kind: toWireKind.get(m.kind)!,
    from: BigInt(m.from),
    to: BigInt(m.to),
    term: BigInt(m.term),
    logTerm: BigInt(m.logTerm),
    index: BigInt(m.index),
    commit: BigInt(m.commit),
    entries: m.entries.map((e) => ({
      term: BigInt(e.term),
      index: BigInt(e.index),
      kind: e.kind === "config" ? WireEntryKind.CONFIG : WireEntryKind.NORMAL,
      data: e.data as Uint8Array<ArrayBuffer>,
    })),
    reject: m.reject,
    rejectHintIndex: BigInt(m.rejectHintIndex),
    rejectHintTerm: BigInt(m.rejectHintTerm),
    context: BigInt(m.context),
    force: m.force,
  });
}

/** The message; undefined when its kind is of a newer version. */
export function fromWire(m: WireMessage): Message | undefined {
  const kind = fromWireKind.get(m.kind);
  if (kind === undefined) return undefined;
  return {
    kind,
    from: safe(m.from),
    to: safe(m.to),
    term: safe(m.term),
    logTerm: safe(m.logTerm),
    index: safe(m.index),
    commit: safe(m.commit),
    entries: m.entries.map((e): Entry => ({
      term: safe(e.term),
      index: safe(e.index),
      kind: e.kind === WireEntryKind.CONFIG ? "config" : "normal",
      data: e.data,
    })),
    reject: m.reject,
    rejectHintIndex: safe(m.rejectHintIndex),
    rejectHintTerm: safe(m.rejectHintTerm),
    context: safe(m.context),
    force: m.force,
  };
}

/** Bytes of entry data in a message. */
export function messageBytes(m: Message): number {
  let bytes = 64;
  for (const entry of m.entries) bytes += entry.data.length + 24;
  return bytes;
}
