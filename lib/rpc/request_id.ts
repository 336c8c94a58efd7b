import type { Clock, Rng } from "@ultracloud/base";
import { isKey } from "./limits.ts";

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const pairs: string[] = [];
for (const a of alphabet) for (const b of alphabet) pairs.push(a + b);

function base32(value: number, characters: number): string {
  let text = "";
  for (let rest = Math.floor(value), i = 0; i < characters; i += 2) {
    text = pairs[rest % 1024]! + text;
    rest = Math.floor(rest / 1024);
  }
  return text;
}

/**
 * Makes `req_<ULID>`: time, ten random characters fixed for this maker, six that count. Unique and sortable like any
 * ULID, without asking the system for randomness on every call.
 */
export function requestIds(clock: Pick<Clock, "nowMs">, rng: Rng): () => string {
  const random = base32(rng.uint32(), 4) + base32(rng.uint32(), 6);
  let count = rng.uint32() % 2 ** 20;
  let timeMs = -1;
  let head = "";
  return () => {
    const now = Math.floor(clock.nowMs());
    if (now !== timeMs) {
      timeMs = now;
      head = `req_${base32(now, 10)}${random}`;
    }
    count = (count + 1) % 2 ** 30;
    return head + base32(count, 6);
  };
}

/** The caller's own id when it is usable; the caller finds its call again by it. */
export function acceptedRequestId(header: string | null): string | undefined {
  return header !== null && header !== "" && isKey(header) ? header : undefined;
}
