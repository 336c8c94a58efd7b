import { entryKind, type GroupBase, type GroupHardState } from "./group_log.ts";
import { emptyPayload, encodeCommit, type WalRecord } from "./record.ts";

export interface WalEntry {
  readonly term: number;
  readonly index: number;
  readonly config: boolean;
  readonly data: Uint8Array;
}

/** What one group asks to be made durable, all together. */
export interface WalWrite {
  readonly group: number;
  readonly hardState?: GroupHardState | undefined;
  /** Consecutive. The first removes what stands at its index and above. */
  readonly entries?: readonly WalEntry[];
  /** Cuts the front off; with `reset` every entry goes. */
  readonly base?: { readonly to: GroupBase; readonly reset: boolean } | undefined;
  readonly remove?: boolean;
}

/** Adds the records of a write to `into`, in the order in which they count. */
export function recordsOf(write: WalWrite, into: WalRecord[]): void {
  const { group } = write;
  if (write.remove) return void into.push({ group, kind: "removed", term: 0, index: 0, payload: emptyPayload });
  if (write.base) {
    const { to, reset } = write.base;
    into.push({ group, kind: reset ? "reset" : "base", term: to.term, index: to.index, payload: to.configuration });
  }
  if (write.hardState) {
    const { term, vote, commit } = write.hardState;
    into.push({ group, kind: "hard_state", term, index: vote, payload: encodeCommit(commit) });
  }
  for (const entry of write.entries ?? []) {
    into.push({
      group,
      kind: entryKind(entry.config, false),
      term: entry.term,
      index: entry.index,
      payload: entry.data,
    });
  }
}
