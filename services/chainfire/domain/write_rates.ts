import type { Clock } from "@ultracloud/base";
import { rejections } from "../errors.ts";
import { namespaceName } from "./namespaces.ts";
import type { Op, Quota } from "./types.ts";

interface Bucket {
  tokens: number;
  filledMs: number;
}

/** Writes a second of each namespace: a bucket that holds a second's worth. Of the member that takes writes. */
export class WriteRates {
  readonly #clock: Pick<Clock, "monotonicMs">;
  /** By namespace; as many as quotas at most. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(deps: { readonly clock: Pick<Clock, "monotonicMs"> }) {
    this.#clock = deps.clock;
  }

  /** Takes a token of every namespace that the operation writes in, or none of any and throws. */
  take(op: Op, quotasOf: (key: Uint8Array) => readonly Quota[]): void {
    const limited = new Map<string, Quota>();
    for (const key of keysWritten(op)) {
      for (const quota of quotasOf(key)) {
        if (quota.writesPerSecondMax > 0) limited.set(namespaceName(quota.namespace), quota);
      }
    }
    const nowMs = this.#clock.monotonicMs();
    const taken: Bucket[] = [];
    for (const [name, { writesPerSecondMax: max }] of limited) {
      const bucket = this.#filled(name, max, nowMs);
      if (bucket.tokens < 1) {
        const retryAfterMs = Math.ceil((1 - bucket.tokens) * 1_000 / max);
        throw rejections.rateExceeded(JSON.stringify(name), max, retryAfterMs);
      }
      taken.push(bucket);
    }
    for (const bucket of taken) bucket.tokens--;
  }

  #filled(name: string, max: number, nowMs: number): Bucket {
    let bucket = this.#buckets.get(name);
    if (!bucket) {
      // Namespaces without a quota are forgotten with the others: a full bucket is where everyone starts.
      if (this.#buckets.size >= bucketsCountMax) this.#buckets.clear();
      this.#buckets.set(name, bucket = { tokens: max, filledMs: nowMs });
    }
    bucket.tokens = Math.min(max, bucket.tokens + (nowMs - bucket.filledMs) * max / 1_000);
    bucket.filledMs = nowMs;
    return bucket;
  }
}

/** Above the number of quotas there may be. */
const bucketsCountMax = 2_000;

function keysWritten(op: Op): Uint8Array[] {
  switch (op.kind) {
    case "put":
    case "delete":
      return [op.key];
    case "range":
      return [];
    case "txn":
      // Which branch runs is not known yet: both count.
      return [...op.success, ...op.failure].flatMap(keysWritten);
  }
}
