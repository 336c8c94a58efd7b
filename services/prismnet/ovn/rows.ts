import { canonical, map, namedUuid, type Operation, type Replica, type Row, type Schema, set } from "@ultracloud/ovsdb";
import { atomsOf, entriesOf, uuid, uuidOf, type Value } from "@ultracloud/ovsdb";

/** Where a row of ours says which object it is made of; rows without it are somebody else's and stay. */
export const keyId = "uc-key";

/** References to other desired rows, by their keys. */
export interface Refs {
  readonly refs: readonly string[];
}

/** A row as it shall be. Columns left out are not ours to write. */
export interface DesiredRow {
  readonly table: string;
  /** Unique in all tables. */
  readonly key: string;
  readonly columns: Readonly<Record<string, Value | Refs>>;
}

function isRefs(value: Value | Refs): value is Refs {
  return typeof value === "object" && "refs" in value;
}

/** Keys of rows, which are replaced and never changed. */
const keys = new WeakMap<Row, string | null>();

/** The key of a row of ours. */
export function keyOf(row: Row): string | undefined {
  let key = keys.get(row);
  if (key === undefined) {
    const pair = entriesOf(row.external_ids).find(([name]) => name === keyId);
    keys.set(row, key = pair === undefined ? null : String(pair[1]));
  }
  return key ?? undefined;
}

/**
 * Rows found to be as desired. Both sides are immutable, so while they are the same objects nothing has to be compared:
 * a row that a desired one refers to cannot be another without this one being written.
 */
export class Settled {
  readonly #pairs = new WeakMap<DesiredRow, Row>();

  has(desired: DesiredRow, row: Row): boolean {
    return this.#pairs.get(desired) === row;
  }

  add(desired: DesiredRow, row: Row): void {
    this.#pairs.set(desired, row);
  }
}

/**
 * The operations that make the replica's rows of `tables` the desired ones; none when they are. Sets and maps change by
 * what was added and removed, so one port more in a group of a thousand is one element on the wire. What `settled` holds
 * is passed over, what is found right is added to it.
 */
export function planOf(
  desired: readonly DesiredRow[],
  tables: readonly string[],
  replica: Replica,
  schema: Schema,
  settled: Settled = new Settled(),
): Operation[] {
  const present = new Map<string, { readonly uuid: string; readonly row: Row }>();
  const stale: { table: string; uuid: string }[] = [];
  const wanted = new Map(desired.map((row) => [row.key, row]));
  for (const table of tables) {
    for (const [id, row] of replica.rows(table)) {
      const key = keyOf(row);
      if (key === undefined) continue;
      // A second row under a key is what nobody refers to: it goes with the rest.
      if (wanted.get(key)?.table === table && !present.has(key)) present.set(key, { uuid: id, row });
      else stale.push({ table, uuid: id });
    }
  }
  const names = new Map<string, string>();
  for (const row of desired) if (!present.has(row.key)) names.set(row.key, `r${names.size}`);
  const resolve = (value: Value | Refs): Value => {
    if (!isRefs(value)) return value;
    return set(value.refs.map((key) => {
      const at = present.get(key);
      const name = names.get(key);
      if (at) return uuid(at.uuid);
      if (name !== undefined) return namedUuid(name);
      throw new TypeError(`Cannot refer to ${key}: it is not desired`);
    }));
  };
  const inserts: Operation[] = [];
  const changes: Operation[] = [];
  for (const wantedRow of desired) {
    const { table, key, columns } = wantedRow;
    const at = present.get(key);
    if (at && settled.has(wantedRow, at.row)) continue;
    const row: Record<string, Value> = {};
    for (const [column, value] of Object.entries(columns)) row[column] = resolve(value);
    row.external_ids = withKey(row.external_ids, key);
    if (at) {
      const operations = changesOf(table, at.uuid, at.row, row, schema);
      if (operations.length === 0) settled.add(wantedRow, at.row);
      changes.push(...operations);
    } else inserts.push({ op: "insert", table, row, "uuid-name": names.get(key)! });
  }
  // Rows of other tables go when nothing refers to them any more, and only then.
  const deletes = stale.filter(({ table }) => schema.tables[table]?.isRoot)
    .map(({ table, uuid: id }): Operation => ({ op: "delete", table, where: [["_uuid", "==", uuid(id)]] }));
  return [...inserts, ...changes, ...deletes];
}

function withKey(externalIds: Value | undefined, key: string): Value {
  return map({ ...Object.fromEntries(entriesOf(externalIds).map(([k, v]) => [String(k), String(v)])), [keyId]: key });
}

function changesOf(table: string, id: string, old: Row, next: Row, schema: Schema): Operation[] {
  const where = [["_uuid", "==", uuid(id)]] as const;
  const replaced: Record<string, Value> = {};
  const mutations: [string, string, Value][] = [];
  for (const [column, value] of Object.entries(next)) {
    const before = old[column];
    const kind = schema.tables[table]?.columns[column]?.kind;
    if (before !== undefined && kind === "set") mutations.push(...setMutations(column, before, value));
    else if (before !== undefined && kind === "map") mutations.push(...mapMutations(column, before, value));
    else if (before === undefined || canonical(before) !== canonical(value)) replaced[column] = value;
  }
  const operations: Operation[] = [];
  if (Object.keys(replaced).length > 0) operations.push({ op: "update", table, where, row: replaced });
  if (mutations.length > 0) operations.push({ op: "mutate", table, where, mutations });
  return operations;
}

function setMutations(column: string, before: Value, after: Value): [string, string, Value][] {
  const texts = (value: Value) => new Map(atomsOf(value).map((atom) => [uuidOf(atom) ?? JSON.stringify(atom), atom]));
  const [old, next] = [texts(before), texts(after)];
  const gone = [...old].filter(([text]) => !next.has(text)).map(([, atom]) => atom);
  const fresh = [...next].filter(([text]) => !old.has(text)).map(([, atom]) => atom);
  const mutations: [string, string, Value][] = [];
  if (gone.length > 0) mutations.push([column, "delete", set(gone)]);
  if (fresh.length > 0) mutations.push([column, "insert", set(fresh)]);
  return mutations;
}

function mapMutations(column: string, before: Value, after: Value): [string, string, Value][] {
  const texts = (value: Value) => new Map(entriesOf(value).map(([key, text]) => [String(key), String(text)]));
  const [old, next] = [texts(before), texts(after)];
  const differs = (from: typeof old, to: typeof old) => [...from].filter(([key, value]) => to.get(key) !== value);
  const [gone, fresh] = [differs(old, next), differs(next, old)];
  const mutations: [string, string, Value][] = [];
  if (gone.length > 0) mutations.push([column, "delete", set(gone.map(([key]) => key))]);
  if (fresh.length > 0) mutations.push([column, "insert", map(Object.fromEntries(fresh))]);
  return mutations;
}

/** What stands, in the form of what is desired, with references as keys: for comparing two states. */
export function dumpRows(
  tables: readonly string[],
  replica: Replica,
  columns: Readonly<Record<string, readonly string[]>>,
): string[] {
  const keys = new Map<string, string>();
  for (const table of tables) for (const [id, row] of replica.rows(table)) keys.set(id, keyOf(row) ?? `?${id}`);
  return tables.flatMap((table) =>
    [...replica.rows(table)].map(([id, row]) => {
      const texts = (columns[table] ?? []).filter((column) => column !== "external_ids").map((column) => {
        const value = row[column]!;
        const isMap = Array.isArray(value) && value[0] === "map";
        const shown = isMap ? value : set(atomsOf(value).map((atom) => keys.get(uuidOf(atom) ?? "") ?? atom));
        return `${column}=${canonical(shown)}`;
      });
      return `${table} ${keys.get(id)} ${texts.sort().join(" ")}`;
    })
  ).sort();
}
