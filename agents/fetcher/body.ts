import { type RowChange, RowChangeKind, type Value } from "@ultracloud/proto/flaredb/v1";

/** A page of row changes as a receiver gets it, in JSON; values are written as flaredb's REST does. */
export function bodyOf(
  hook: { readonly name: string; readonly database: string },
  page: { readonly index: bigint; readonly changes: readonly RowChange[] },
): string {
  return JSON.stringify({
    hook: hook.name,
    database: hook.database,
    index: String(page.index),
    changes: page.changes.map(({ index, kind, table, before, after }) => ({
      index: String(index),
      kind: RowChangeKind[kind].toLowerCase(),
      table,
      before: row(before),
      after: row(after),
    })),
  });
}

function row(values: RowChange["before"]): Record<string, unknown> | undefined {
  if (values.length === 0) return undefined;
  return Object.fromEntries(
    values.map(({ column, value }) => [column, jsonOf(value)]),
  );
}

function jsonOf(value: Value | undefined): unknown {
  const kind = value?.kind;
  switch (kind?.case) {
    case "integer": {
      const number = Number(kind.value);
      return Number.isSafeInteger(number) ? number : { integer: String(kind.value) };
    }
    case "real":
      return Number.isFinite(kind.value) && !Number.isInteger(kind.value) ? kind.value : { real: String(kind.value) };
    case "text":
      return kind.value;
    case "blob":
      return { blob: kind.value.toBase64() };
    default:
      return null;
  }
}
