import { type Rng, uniform, utf8 } from "@ultracloud/base";
import type { SessionCall } from "../domain/types.ts";
import type { AdminCommand } from "./admin_codec.ts";

const pick = <T>(rng: Rng, items: readonly T[]): T => items[uniform(rng, items.length)]!;
const caller = (rng: Rng) => pick(rng, ["ann", "bob"]);
const sessionId = (rng: Rng) => BigInt(1 + uniform(rng, 6));

/** Commands that change no key, over few names, so that they meet. For tests. */
export function randomAdmin(rng: Rng): AdminCommand {
  const namespace = utf8.encode(pick(rng, ["", "a", "b", "bb"]));
  const alarm = { member: 1 + uniform(rng, 3), type: pick(rng, ["no_space", "corrupt"] as const) };
  switch (uniform(rng, 10)) {
    case 0:
    case 1:
      return { kind: "open_session", caller: caller(rng) };
    case 2:
      return { kind: "close_session", caller: caller(rng), id: sessionId(rng) };
    case 3: {
      const bound = (max: number) => uniform(rng, 2) === 0 ? 0 : uniform(rng, max);
      return {
        kind: "set_quota",
        quota: {
          namespace,
          bytesMax: bound(20),
          keysMax: bound(6),
          leasesMax: bound(3),
          watchesMax: bound(5),
          writesPerSecondMax: bound(5),
        },
      };
    }
    case 4:
      return { kind: "delete_quota", namespace };
    case 5:
      return { kind: "raise_alarm", alarm };
    case 6:
      return { kind: "clear_alarm", alarm };
    case 7: {
      const id = 1 + uniform(rng, 8);
      const kind = pick(rng, ["add_member", "update_member"] as const);
      return { kind, member: { id, name: `m${id}`, peerUrl: pick(rng, ["p", "q"]), clientUrl: "c" } };
    }
    case 8:
      return { kind: pick(rng, ["remove_member", "await_promotion"] as const), id: 1 + uniform(rng, 8) };
    default:
      return uniform(rng, 4) === 0
        ? { kind: "check_hash" }
        : { kind: "report_hash", member: 1 + uniform(rng, 4), check: 1 + uniform(rng, 4), hash: 7 + uniform(rng, 2) };
  }
}

/** A write's place in a session that may or may not exist. */
export function randomSessionCall(rng: Rng): SessionCall {
  const sequence = 1 + uniform(rng, 12);
  return {
    caller: caller(rng),
    session: sessionId(rng),
    sequence,
    answeredBelow: uniform(rng, 3) === 0 ? uniform(rng, sequence + 1) : 0,
    bodyHash: uniform(rng, 8) === 0 ? 1 : 0,
  };
}
