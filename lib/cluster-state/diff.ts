import type { ClusterState } from "./schema.ts";

/** One difference between two states; a value is absent where the path is. */
export interface StateChange {
  /** `classes.worker.desired_system.target_system`; a name with a dot stands in quotes. */
  readonly path: string;
  readonly before?: unknown;
  readonly after?: unknown;
}

/** What differs, in the order of paths; empty when nothing does. Order of keys does not count, that of lists does. */
export function diffStates(
  before: ClusterState | undefined,
  after: ClusterState | undefined,
): StateChange[] {
  return diffValues(before, after);
}

/** The same for any two parts of states. */
export function diffValues(before: unknown, after: unknown): StateChange[] {
  const changes: StateChange[] = [];
  compare([], before, after, changes);
  return changes.sort((a, b) => a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
}

function compare(
  path: readonly string[],
  before: unknown,
  after: unknown,
  changes: StateChange[],
): void {
  if (isObject(before) && isObject(after)) {
    for (
      const key of new Set([...Object.keys(before), ...Object.keys(after)])
    ) {
      compare([...path, key], before[key], after[key], changes);
    }
    return;
  }
  if (JSON.stringify(before) === JSON.stringify(after)) return;
  changes.push({
    path: path.map((part) => part.includes(".") ? JSON.stringify(part) : part)
      .join("."),
    ...(before === undefined ? {} : { before }),
    ...(after === undefined ? {} : { after }),
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
