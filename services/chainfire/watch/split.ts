import type { KvEvent } from "../domain/types.ts";

/** Events of one message in memory and on the wire, about; larger revisions come in fragments to who asked for them. */
export const watchMessageBytesMax: number = 1 << 20;

export interface EventPart {
  readonly events: readonly KvEvent[];
  /** More of the same revision follow. */
  readonly fragment: boolean;
}

/**
 * Events in parts of about the size, so that one message stays small whatever a transaction did. A revision is split
 * only where `fragments` allows it.
 */
export function* splitEvents(events: readonly KvEvent[], fragments: boolean, bytesMax: number): Generator<EventPart> {
  let from = 0;
  let bytes = 0;
  for (let i = 0; i < events.length; i++) {
    const { kv, prev } = events[i]!;
    const size = kv.key.length + kv.value.length + (prev ? prev.key.length + prev.value.length : 0);
    const sameRevision = i > 0 && events[i - 1]!.kv.modRevision === kv.modRevision;
    if (i > from && bytes + size > bytesMax && (fragments || !sameRevision)) {
      yield { events: events.slice(from, i), fragment: sameRevision };
      from = i;
      bytes = 0;
    }
    bytes += size;
  }
  yield { events: events.slice(from), fragment: false };
}
