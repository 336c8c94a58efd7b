import { assert } from "@ultracloud/base";

/** A column of a changed row; undefined where the changeset leaves it out. */
export type ChangedValue = null | bigint | number | string | Uint8Array | undefined;

/** One row of a changeset. */
export interface ChangesetRow {
  readonly table: string;
  readonly kind: "insert" | "update" | "delete";
  /** Which columns are of the primary key. */
  readonly keys: readonly boolean[];
  readonly before: readonly ChangedValue[];
  readonly after: readonly ChangedValue[];
}

const kinds: Readonly<Record<number, ChangesetRow["kind"]>> = { 18: "insert", 23: "update", 9: "delete" };

/** Reads SQLite's changeset format (sqlite3session.c): tables with their changed rows. */
export function decodeChangeset(bytes: Uint8Array): ChangesetRow[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder();
  const rows: ChangesetRow[] = [];
  let at = 0;
  let table = "";
  let keys: boolean[] = [];
  const varint = () => {
    let value = 0;
    for (;;) {
      const byte = bytes[at++]!;
      value = value * 128 + (byte & 0x7f);
      if (byte < 0x80) return value;
    }
  };
  const value = (): ChangedValue => {
    const type = bytes[at++]!;
    switch (type) {
      case 0:
        return undefined;
      case 1:
        at += 8;
        return view.getBigInt64(at - 8);
      case 2:
        at += 8;
        return view.getFloat64(at - 8);
      case 3:
      case 4: {
        const length = varint();
        const part = bytes.slice(at, at + length);
        at += length;
        return type === 3 ? text.decode(part) : part;
      }
      default:
        assert(type === 5, `A value of a changeset has a known type, not ${type}`);
        return null;
    }
  };
  const record = () => keys.map(value);
  while (at < bytes.length) {
    const byte = bytes[at++]!;
    if (byte === 0x54) {
      const columns = varint();
      keys = [...bytes.subarray(at, at + columns)].map((flag) => flag !== 0);
      at += columns;
      const end = bytes.indexOf(0, at);
      table = text.decode(bytes.subarray(at, end));
      at = end + 1;
      continue;
    }
    const kind = kinds[byte];
    assert(kind !== undefined, `A change of a changeset has a known kind, not ${byte}`);
    // Whether a trigger made it says nothing to callers.
    at++;
    const before = kind === "insert" ? [] : record();
    const after = kind === "delete" ? [] : record();
    rows.push({ table, kind, keys, before, after });
  }
  return rows;
}
