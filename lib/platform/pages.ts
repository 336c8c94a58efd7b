import { createHash } from "node:crypto";
import { invalidField } from "@ultracloud/base";
import { keyAfter, type KvBackend, type KvScan } from "./kv.ts";
import type { RecordCache } from "./record_cache.ts";
import { buckets, decodeRecord, type Kind, recordKey, type StoredRecord } from "./records.ts";

export const pageSizeDefault = 100;
export const pageSizeMax = 1000;
const filtersMax = 16;
const filterCharsMax = 512;
/** Rows one call reads at most: a filter that matches little answers short pages with a token instead of long waits. */
export const rowsReadMax = 20_000;
const chunkRows = 1000;

/** What a list call asks for: the fields of `ultracloud.common.v1.PageRequest`. */
export interface PageInput {
  readonly pageSize?: number;
  readonly pageToken?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly filter?: readonly string[];
}

export interface Page<T> {
  readonly items: T[];
  /** Empty when the list is complete. */
  readonly nextPageToken: string;
}

/** Reads `page_size`: 0 means 100, at most 1000. */
export function pageSizeOf(page: PageInput | undefined): number {
  const size = page?.pageSize ?? 0;
  if (!Number.isInteger(size) || size < 0 || size > pageSizeMax) {
    throw invalidField("page.pageSize", `Cannot list ${size} at a time: wanted 0 to ${pageSizeMax}`);
  }
  return size === 0 ? pageSizeDefault : size;
}

/** The token that continues after `key`; bound to the question it belongs to. */
export function makePageToken(key: string, question: string): string {
  return btoa(encodeURIComponent(JSON.stringify([key, digest(question)]))).replaceAll("+", "-").replaceAll("/", "_")
    .replaceAll("=", "");
}

/** The key a token continues after; undefined for the first page. */
export function readPageToken(token: string | undefined, question: string): string | undefined {
  if (token === undefined || token === "") return undefined;
  try {
    const text = decodeURIComponent(atob(token.replaceAll("-", "+").replaceAll("_", "/")));
    const json: unknown = JSON.parse(text);
    if (Array.isArray(json) && typeof json[0] === "string" && json[1] === digest(question)) return json[0];
  } catch {
    // Falls through: whatever is wrong with it, the answer is the same.
  }
  throw invalidField(
    "page.pageToken",
    "Cannot use the page token: wanted one from the same list call with the same filters",
    "invalid_page_token",
  );
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("base64url").slice(0, 12);
}

type Json = unknown;

/** A test of label and field equality over a resource's JSON. */
export function pageFilter(page: PageInput | undefined): {
  matches(labels: Readonly<Record<string, string>>, view: () => Json): boolean;
  readonly question: string;
} {
  const labels = Object.entries(page?.labels ?? {});
  const filters = page?.filter ?? [];
  if (filters.length > filtersMax) {
    throw invalidField("page.filter", `Cannot use ${filters.length} filters: wanted at most ${filtersMax}`);
  }
  if (labels.length > filtersMax) {
    throw invalidField("page.labels", `Cannot use ${labels.length} labels: wanted at most ${filtersMax}`);
  }
  const fields = filters.map((text, i) => {
    const at = text.indexOf("=");
    const path = text.slice(0, at);
    if (at <= 0 || text.length > filterCharsMax || !/^[A-Za-z][A-Za-z0-9_.-]*$/.test(path)) {
      throw invalidField(
        `page.filter.${i}`,
        `Cannot use filter ${JSON.stringify(text.slice(0, 80))}: wanted path=value`,
      );
    }
    return { path: path.split("."), value: text.slice(at + 1) };
  });
  return {
    question: JSON.stringify([labels.sort(), fields]),
    matches(own, view) {
      if (labels.some(([key, value]) => own[key] !== value)) return false;
      if (fields.length === 0) return true;
      const json = view();
      return fields.every((f) => fieldEquals(json, f.path, f.value));
    },
  };
}

/** snake_case and camelCase both name a field; `running` matches the enum value VM_STATE_RUNNING. */
function fieldEquals(json: Json, path: readonly string[], wanted: string): boolean {
  let at: Json = json;
  for (const part of path) {
    if (typeof at !== "object" || at === null) return wanted === "" && at === undefined;
    const object = at as Record<string, Json>;
    at = object[part] ?? object[part.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase())];
  }
  if (at === undefined || at === null) return wanted === "" || wanted === "0" || wanted === "false";
  const actual = String(at);
  if (actual === wanted) return true;
  return /^[A-Z0-9_]+$/.test(actual) && actual.endsWith(`_${wanted.toUpperCase()}`);
}

async function readRecords(kv: KvBackend, scan: KvScan) {
  const rows = await kv.scan(buckets.records, scan);
  return rows.map(({ key, value }) => ({ key, ...decodeRecord(value) }));
}

/** One page of records by name. `view` is the resource's public JSON, read only when fields are filtered. */
export async function pageRecords<V>(
  kv: KvBackend,
  kind: Kind<V>,
  o: {
    /** undefined: of all projects, by project and name. */
    readonly project: string | undefined;
    readonly page?: PageInput | undefined;
    readonly where?: (record: StoredRecord<V>) => boolean;
    readonly view?: (record: StoredRecord<V>) => unknown;
    /** Where records that were read before are kept; absent: all are read. */
    readonly cache?: RecordCache | undefined;
  },
): Promise<Page<StoredRecord<V>>> {
  const size = pageSizeOf(o.page);
  const filter = pageFilter(o.page);
  const prefix = o.project === undefined ? `${kind.name}|` : recordKey(kind.name, o.project, "");
  const question = prefix + filter.question;
  let after = readPageToken(o.page?.pageToken, question);
  const items: StoredRecord<V>[] = [];
  /** Of the last item told: the token is readable, so it must not name a record that `where` keeps back. */
  let last: string | undefined;
  for (let read = 0; read < rowsReadMax;) {
    const limit = Math.max(Math.min(chunkRows, size - items.length + 1), 16);
    const scan = { prefix, limit, ...(after === undefined ? {} : { start: keyAfter(after) }) };
    const rows = await (o.cache ? o.cache.scan(kv, scan) : readRecords(kv, scan));
    for (const row of rows) {
      const { record, deleted } = row;
      const typed = record as StoredRecord<V>;
      if (
        !deleted && (o.where?.(typed) ?? true) && filter.matches(typed.labels, () => o.view?.(typed) ?? typed.value)
      ) {
        if (items.length === size) return { items, nextPageToken: makePageToken(last!, question) };
        items.push(typed);
        last = row.key;
      }
      after = row.key;
    }
    if (rows.length < limit) return { items, nextPageToken: "" };
    read += rows.length;
  }
  return { items, nextPageToken: makePageToken(after!, question) };
}
