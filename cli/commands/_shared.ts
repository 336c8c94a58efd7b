import { fault } from "@ultracloud/base";
import type { Meta, PageResponse } from "@ultracloud/proto/common/v1";
import { type Column, humanAge } from "../frame/columns.ts";
import { text } from "../frame/command.ts";

/** A list is read page by page up to this many items; more wants a filter. */
const itemsMax = 100_000;

/** Every item of a paged list. */
export async function pages<R extends { page?: PageResponse | undefined }, T>(
  call: (page: { pageSize: number; pageToken: string }) => Promise<R>,
  pick: (response: R) => readonly T[],
): Promise<T[]> {
  const all: T[] = [];
  let pageToken = "";
  do {
    const response = await call({ pageSize: 1000, pageToken });
    all.push(...pick(response));
    pageToken = response.page?.nextPageToken ?? "";
  } while (pageToken !== "" && all.length < itemsMax);
  return all;
}

type WithMeta = { meta?: Meta | undefined };

/** Columns every stored resource has. */
export function metaColumns<T extends WithMeta>(): Column<T>[] {
  return [
    { name: "name", get: (r) => r.meta?.name ?? "" },
    { name: "id", get: (r) => r.meta?.id ?? "" },
    {
      name: "age",
      get: (r) => r.meta?.createTime ? humanAge(Number(r.meta.createTime.seconds) * 1000, Date.now()) : "",
      order: (r) => -Number(r.meta?.createTime?.seconds ?? 0),
    },
    {
      name: "labels",
      get: (r) => Object.entries(r.meta?.labels ?? {}).map(([k, v]) => `${k}=${v}`).join(" "),
      wide: true,
    },
  ];
}

export const labelFlag = {
  kind: "parsed",
  parse: text,
  optional: true,
  variadic: true,
  brief: "key=value, repeatable",
} as const;

/** ["a=b"] as a map. */
export function labelsOf(pairs: readonly string[] | undefined): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const pair of pairs ?? []) {
    const at = pair.indexOf("=");
    if (at < 1) {
      throw fault(
        "invalid_argument",
        "invalid_label",
        `Cannot read ${JSON.stringify(pair)} as a label: wanted key=value`,
      );
    }
    labels[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return labels;
}
