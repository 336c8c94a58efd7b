import { type Fault, fault, type IdPrefix, idPrefixes, isId, utf8 } from "@ultracloud/base";

declare const valueType: unique symbol;

/** A kind of record and the type of its value. Made by `defineKind`. */
export interface Kind<V> {
  readonly name: string;
  /** Prefix of ids; undefined: the name is the id. */
  readonly prefix: IdPrefix | undefined;
  /** How people call one in messages: "VM", "security group". */
  readonly title: string;
  readonly [valueType]?: V;
}

/** Declares a kind. `name` is what stands in keys, permissions and events. */
export function defineKind<V>(
  o: { readonly name: string; readonly prefix?: IdPrefix; readonly title?: string },
): Kind<V> {
  if (!/^[a-z][a-z0-9_-]{0,30}$/.test(o.name)) throw new TypeError(`Cannot use ${o.name} as the name of a kind`);
  if (o.prefix !== undefined && !idPrefixes.includes(o.prefix)) throw new TypeError(`Unknown id prefix ${o.prefix}`);
  return { name: o.name, prefix: o.prefix, title: o.title ?? o.name.replaceAll("_", " ") };
}

/** One stored resource. Immutable; writing answers a new one. */
export interface StoredRecord<V = unknown> {
  readonly kind: string;
  readonly id: string;
  /** "org/project", "org" or "". */
  readonly project: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Changes with every write. */
  readonly etag: string;
  readonly createMs: number;
  readonly updateMs: number;
  /** 1 when created, one more with every write. */
  readonly revision: number;
  readonly value: V;
}

/** Buckets of a service's database. */
export const buckets = {
  records: "records",
  /** kind|id -> key in records. */
  ids: "ids",
  /** Reservations, guards, cursors and small rows of the service. */
  rows: "rows",
  operations: "operations",
  /** Ids of operations that are not over. */
  active: "active",
  /** Answers kept for idempotency keys. */
  answers: "answers",
} as const;

/** How long a deleted record leaves a mark, so that watches can tell its id. */
export const tombstoneTtlMs = 60_000;

interface Tombstone extends Omit<StoredRecord<null>, "value"> {
  readonly deleted: true;
}

/** Key of a record: sorts by kind, project, name. */
export function recordKey(kind: string, project: string, name: string): string {
  return `${kind}|${project}|${name}`;
}

export function idKey(kind: string, id: string): string {
  return `${kind}|${id}`;
}

export function encodeJson(value: unknown): Uint8Array {
  return utf8.encode(JSON.stringify(value));
}

export function decodeJson<T>(bytes: Uint8Array): T {
  return JSON.parse(utf8.decode(bytes)) as T;
}

/** The record in a row; `deleted` when it is only a mark. */
export function decodeRecord(bytes: Uint8Array): { record: StoredRecord; deleted: boolean } {
  const json = decodeJson<StoredRecord & { deleted?: boolean }>(bytes);
  return { record: json, deleted: json.deleted === true };
}

export function encodeTombstone(record: StoredRecord, etag: string, nowMs: number): Uint8Array {
  const { value: _, ...rest } = record;
  const mark: Tombstone = { ...rest, etag, updateMs: nowMs, revision: record.revision + 1, deleted: true };
  return encodeJson(mark);
}

/** True when the text has the form of the kind's ids. */
export function looksLikeId(kind: Kind<unknown>, text: string): boolean {
  return kind.prefix !== undefined && isId(kind.prefix, text);
}

/** "Cannot find VM web in acme/prod". */
export function notFound(kind: Kind<unknown>, project: string, nameOrId: string): Fault {
  const where = project === "" ? "" : ` in ${project}`;
  return fault(
    "not_found",
    `${kind.name}_not_found`,
    `Cannot find ${kind.title} ${JSON.stringify(nameOrId.slice(0, 80))}${where}`,
  );
}
