import { type Clock, fault } from "@ultracloud/base";
import { followIndex, type Watched } from "./watch.ts";
import type { RowChangePage } from "./state/row_changes.ts";

/** Row changes after `after` in order, whole entries at a time; 0 means from now on. The first answer says from where. */
export function watchRows(
  options: { readonly tables: ReadonlySet<string>; readonly after: number; readonly pageBytes: number },
  watched: Watched,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<RowChangePage> {
  const { tables, after, pageBytes } = options;
  const { machine } = watched;
  if (!machine.parts.rowChanges.capturing) {
    throw fault("failed_precondition", "not_captured", "Cannot tell changes of rows: wanted the setting capture");
  }
  return followIndex(
    after,
    watched,
    clock,
    signal,
    (at) => machine.parts.rowChanges.read(tables, at, machine.index, pageBytes),
  );
}
