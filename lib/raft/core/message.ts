import type { Entry, Message, MessageKind, NodeId } from "./types.ts";

export const noEntries: readonly Entry[] = [];

/** A message with every field in the one order, so that all of them share one hidden class. */
export function message(
  kind: MessageKind,
  from: NodeId,
  to: NodeId,
  term: number,
  logTerm = 0,
  index = 0,
  commit = 0,
  entries: readonly Entry[] = noEntries,
  reject = false,
  rejectHintIndex = 0,
  rejectHintTerm = 0,
  context = 0,
  force = false,
): Message {
  return {
    kind,
    from,
    to,
    term,
    logTerm,
    index,
    commit,
    entries,
    reject,
    rejectHintIndex,
    rejectHintTerm,
    context,
    force,
  };
}
