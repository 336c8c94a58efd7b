import { fault, invalidField } from "@ultracloud/base";
import { Level, type Read } from "@ultracloud/proto/flaredb/v1";
import { checkIndex } from "./domain/names.ts";
import type { CallContext } from "@ultracloud/rpc";
import type { Databases, OpenDatabase } from "./databases.ts";

/** Waits until the local state may be read at the level that was asked for; linearizable when none was. */
export function awaitLevel(
  databases: Databases,
  database: OpenDatabase,
  read: Read | undefined,
  context: CallContext,
): Promise<void> {
  const level = read?.level ?? Level.UNSPECIFIED;
  // Most reads, and one promise for them.
  if (level === Level.UNSPECIFIED || level === Level.LINEARIZABLE) return database.group.readBarrier();
  return awaitOther(databases, database, read!, context);
}

async function awaitOther(
  databases: Databases,
  database: OpenDatabase,
  read: Read,
  context: CallContext,
): Promise<void> {
  const { row, group, machine } = database;
  switch (read.level) {
    case Level.STALE: {
      const maxMs = read.maxAgeMs;
      if (maxMs <= 0n) {
        throw invalidField("read.max_age_ms", `Cannot read with an age of ${maxMs} ms: wanted more than 0`);
      }
      const ageMs = group.contactAgeMs();
      if (ageMs <= Number(maxMs)) return;
      throw fault(
        "unavailable",
        "too_stale",
        `Cannot read ${row.name} here as its leader was last heard ${
          Math.round(ageMs)
        } ms ago: wanted at most ${maxMs}`,
        { retryAfterMs: 100 },
      );
    }
    case Level.AT_INDEX:
      return await group.waitApplied(checkIndex(read.atIndex, "read.at_index") - machine.offset, context.signal);
    case Level.STRONG:
      await databases.barrier(database, context);
      return;
    default:
      throw invalidField("read.level", `Cannot read at level ${read.level}: wanted one of the named levels`);
  }
}
