import { type Clock, fault } from "@ultracloud/base";
import { pageBytesDefault } from "./domain/bounds.ts";
import type { ChangePage } from "./state/changes.ts";
import type { Group } from "@ultracloud/replica";
import type { DatabaseMachine } from "./state/database_machine.ts";

/** A watch without changes says this often how far it is, so that resuming does not fall behind what is held. */
const progressEveryMs = 10_000;
/** A replica that has not heard its leader for this long has nothing to tell, and others may. */
const silenceMsMax = 5_000;
const silenceEveryMs = 1_000;

/** What is watched: the state, and how long ago its leader was heard. */
export interface Watched {
  readonly machine: DatabaseMachine;
  readonly group: Pick<Group, "contactAgeMs">;
}

interface Page {
  /** Everything up to this index is in this page or an earlier one. */
  readonly index: number;
  readonly changes: readonly unknown[];
}

/** Changes of keys after `after`, as `followIndex` tells them. */
export function watchChanges(
  options: { readonly bucket: string; readonly prefix: string; readonly after: number },
  watched: Watched,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<ChangePage> {
  const { bucket, prefix, after } = options;
  const { machine } = watched;
  return followIndex(
    after,
    watched,
    clock,
    signal,
    (at) => machine.parts.changes.read(bucket, prefix, at, machine.index, pageBytesDefault),
  );
}

/**
 * Changes after `after` in order, whole entries at a time; 0 means from now on. The first answer says from where. A
 * reader that takes its time holds up nobody: what it missed is read from the change table, or refused as compacted. Ends
 * as unavailable on a replica that is cut off from its leader, so that the reader goes on elsewhere.
 */
export async function* followIndex<P extends Page>(
  after: number,
  { machine, group }: Watched,
  clock: Clock,
  signal: AbortSignal,
  read: (at: number) => P,
): AsyncGenerator<P> {
  let at = after === 0 ? machine.index : after;
  if (at > machine.index) {
    throw fault(
      "out_of_range",
      "future_index",
      `Cannot watch after index ${at} as the database is at ${machine.index}: wanted an index that it answered`,
    );
  }
  let wake: (() => void) | undefined;
  const stop = machine.onApplied(() => wake?.());
  const over = new AbortController();
  const listening = (async () => {
    while (group.contactAgeMs() <= silenceMsMax) {
      if (!await clock.sleep(silenceEveryMs, over.signal).then(() => true, () => false)) return;
    }
    wake?.();
  })();
  try {
    yield { ...read(at), index: at, changes: [] };
    let toldMs = clock.monotonicMs();
    while (true) {
      signal.throwIfAborted();
      if (machine.closed) {
        throw fault("not_found", "database_not_found", "Cannot go on watching as the database is gone");
      }
      if (machine.diverged) {
        throw fault(
          "unavailable",
          "database_diverged",
          "Cannot go on watching here as this replica's content is wrong",
        );
      }
      if (group.contactAgeMs() > silenceMsMax) {
        throw fault(
          "unavailable",
          "watch_cut_off",
          `Cannot go on watching here as the leader has not been heard for ${silenceMsMax} ms: wanted another replica`,
          { retryAfterMs: 100 },
        );
      }
      const page = read(at);
      const late = clock.monotonicMs() - toldMs >= progressEveryMs;
      if (page.changes.length > 0 || (late && page.index > at)) {
        yield page;
        toldMs = clock.monotonicMs();
      }
      at = page.index;
      if (at < machine.index) continue;
      await new Promise<void>((resolve, reject) => {
        const abort = () => reject(signal.reason);
        wake = () => {
          signal.removeEventListener("abort", abort);
          resolve();
        };
        signal.addEventListener("abort", abort, { once: true });
      });
      wake = undefined;
    }
  } finally {
    stop();
    over.abort();
    await listening;
  }
}
