import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  DeleteRangeResponseSchema,
  KeyValueSchema,
  PutResponseSchema,
  RangeResponseSchema,
  ResponseHeaderSchema,
  ResponseOpSchema,
  TxnResponseSchema,
} from "@ultracloud/proto/chainfire/v1";

/**
 * Answers as etcd's gateway writes them: bytes in base64, 64-bit numbers as text, fields with their default left out.
 * Put together as text, as these are the hottest paths and JSON.stringify would need objects for it first.
 */

export type HeaderInit = MessageInitShape<typeof ResponseHeaderSchema>;
export type KvInit = MessageInitShape<typeof KeyValueSchema>;

/** etcd's cluster id is a number: FNV-1a of ours, the same on every member. */
export function clusterNumber(clusterId: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(clusterId)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash;
}

let cachedId: string | undefined;
let cachedMember: bigint | undefined;
let cachedText = "";

/** The part of the header that does not change while the process lives. */
function identity(header: HeaderInit): string {
  const { clusterId = "", memberId = 0n } = header;
  if (clusterId !== cachedId || memberId !== cachedMember) {
    cachedId = clusterId;
    cachedMember = memberId;
    cachedText = `"cluster_id":"${clusterNumber(clusterId)}","member_id":"${memberId}"`;
  }
  return cachedText;
}

/** `"header":{...}`; `revision` false leaves the revision out, as some answers of etcd do. */
export function header(value: HeaderInit | undefined, revision = true): string {
  if (value === undefined) return `"header":{}`;
  const at = revision ? int("revision", value.revision) : "";
  return `"header":{${identity(value)}${at}${int("raft_term", value.raftTerm)}}`;
}

/** A 64-bit number behind a comma; nothing when it is 0. */
export function int(name: string, value: bigint | undefined): string {
  return value === undefined || value === 0n ? "" : `,"${name}":"${value}"`;
}

export function flag(name: string, value: boolean | undefined): string {
  return value === true ? `,"${name}":true` : "";
}

export function base64(name: string, value: Uint8Array | undefined): string {
  return value === undefined || value.length === 0 ? "" : `,"${name}":"${value.toBase64()}"`;
}

/** Fields that each begin with a comma, as an object. */
export function braces(fields: string): string {
  return `{${fields.slice(1)}}`;
}

export function keyValue(kv: KvInit): string {
  const { key, value, createRevision, modRevision, version, lease } = kv;
  return braces(
    base64("key", key) + int("create_revision", createRevision) + int("mod_revision", modRevision) +
      int("version", version) + base64("value", value) + int("lease", lease),
  );
}

function keyValues(name: string, kvs: readonly KvInit[] | undefined): string {
  if (kvs === undefined || kvs.length === 0) return "";
  let text = `,"${name}":[${keyValue(kvs[0]!)}`;
  for (let i = 1; i < kvs.length; i++) text += `,${keyValue(kvs[i]!)}`;
  return `${text}]`;
}

type RangeInit = MessageInitShape<typeof RangeResponseSchema>;
type PutInit = MessageInitShape<typeof PutResponseSchema>;
type DeleteInit = MessageInitShape<typeof DeleteRangeResponseSchema>;
type TxnInit = MessageInitShape<typeof TxnResponseSchema>;
type OpInit = MessageInitShape<typeof ResponseOpSchema>;

const rangeFields = ({ kvs, more, count }: RangeInit) =>
  keyValues("kvs", kvs) + flag("more", more) + int("count", count);
const putFields = ({ prevKv }: PutInit) => prevKv === undefined ? "" : `,"prev_kv":${keyValue(prevKv)}`;
const deleteFields = ({ deleted, prevKvs }: DeleteInit) => int("deleted", deleted) + keyValues("prev_kvs", prevKvs);
function txnFields({ succeeded, responses }: TxnInit): string {
  const inner = responses === undefined || responses.length === 0 ? "" : `,"responses":[${responses.map(op).join()}]`;
  return flag("succeeded", succeeded) + inner;
}

/** Operations inside a transaction name the revision alone, transactions inside not even that. */
function op({ response }: OpInit): string {
  const inner = (value: { header?: HeaderInit | undefined }) =>
    `"header":${braces(int("revision", value.header?.revision))}`;
  switch (response?.case) {
    case "range":
      return `{"response_range":{${inner(response.value)}${rangeFields(response.value)}}}`;
    case "put":
      return `{"response_put":{${inner(response.value)}${putFields(response.value)}}}`;
    case "deleteRange":
      return `{"response_delete_range":{${inner(response.value)}${deleteFields(response.value)}}}`;
    case "txn":
      return `{"response_txn":{"header":{}${txnFields(response.value)}}}`;
    default:
      return "{}";
  }
}

export const rangeAnswer = (answer: RangeInit): string => `{${header(answer.header)}${rangeFields(answer)}}`;
export const putAnswer = (answer: PutInit): string => `{${header(answer.header)}${putFields(answer)}}`;
export const deleteAnswer = (answer: DeleteInit): string => `{${header(answer.header)}${deleteFields(answer)}}`;
export const txnAnswer = (answer: TxnInit): string => `{${header(answer.header)}${txnFields(answer)}}`;
/** An answer that is nothing but its header. */
export const headerAnswer = (answer: { header?: HeaderInit | undefined }): string => `{${header(answer.header)}}`;
