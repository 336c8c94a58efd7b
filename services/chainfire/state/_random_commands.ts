import { type Rng, uniform, utf8 } from "@ultracloud/base";
import type { Command, Compare, KeyRange, Op, RangeOp, TxnOp } from "../domain/types.ts";

import { randomAdmin } from "./_random_admin.ts";

/** What random commands may refer to. */
export interface Choices {
  readonly revision: number;
}

const pick = <T>(rng: Rng, items: readonly T[]): T => items[uniform(rng, items.length)]!;
const some = (rng: Rng) => uniform(rng, 2) === 0;
const key = (rng: Rng) => utf8.encode(pick(rng, ["a", "b", "ba", "bb", "c", "d"]));
const value = (rng: Rng) => utf8.encode(pick(rng, ["", "1", "2", "33"]));
const lease = (rng: Rng) => pick(rng, [0n, 0n, 0n, 1n, 2n, 9_223_372_036_854_775_807n]);

function keyRange(rng: Rng): KeyRange {
  const end = pick(rng, [[], [], [0], [...utf8.encode("c")], [...utf8.encode("bb")], [255]]);
  return { key: key(rng), end: new Uint8Array(end) };
}

/** Mostly valid, over few keys, so that they meet. For tests. */
export function randomRange(rng: Rng, { revision }: Choices): RangeOp {
  const bound = () => uniform(rng, 5) === 0 ? 1 + uniform(rng, revision + 1) : 0;
  return {
    kind: "range",
    ...keyRange(rng),
    limit: uniform(rng, 4),
    revision: some(rng) ? 0 : uniform(rng, revision + 3),
    descending: some(rng),
    target: pick(rng, ["key", "version", "create", "mod", "value"]),
    keysOnly: uniform(rng, 4) === 0,
    countOnly: uniform(rng, 6) === 0,
    minMod: bound(),
    maxMod: bound(),
    minCreate: bound(),
    maxCreate: bound(),
  };
}

export function randomCommand(rng: Rng, choices: Choices): Command {
  switch (uniform(rng, 18)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return put(rng);
    case 4:
    case 5:
      return { kind: "delete", ...keyRange(rng), prevKv: some(rng) };
    case 6:
    case 7:
    case 8:
      return txn(rng, choices, 0);
    case 9:
      return { kind: "compact", revision: Math.max(1, choices.revision - uniform(rng, 12)) };
    case 10:
      return { kind: "grant", id: pick(rng, [1n, 2n, 9_223_372_036_854_775_807n]), ttlMs: 100 + uniform(rng, 200) };
    case 11:
      return { kind: "keep_alive", id: pick(rng, [1n, 2n]) };
    case 12:
      return { kind: "revoke", id: pick(rng, [1n, 2n]) };
    case 13:
      return { kind: "expire" };
    default:
      return randomAdmin(rng);
  }
}

function put(rng: Rng): Extract<Op, { kind: "put" }> {
  const ignoreValue = uniform(rng, 6) === 0;
  const ignoreLease = uniform(rng, 6) === 0;
  return {
    kind: "put",
    key: key(rng),
    value: ignoreValue ? new Uint8Array(0) : value(rng),
    lease: ignoreLease ? 0n : lease(rng),
    prevKv: some(rng),
    ignoreValue,
    ignoreLease,
  };
}

function txn(rng: Rng, choices: Choices, depth: number): TxnOp {
  const ops = () =>
    Array.from({ length: uniform(rng, 3) }, (): Op => {
      switch (uniform(rng, depth < 2 ? 5 : 4)) {
        case 0:
        case 1:
          return put(rng);
        case 2:
          return { kind: "delete", ...keyRange(rng), prevKv: some(rng) };
        case 3:
          return randomRange(rng, choices);
        default:
          return txn(rng, choices, depth + 1);
      }
    });
  return {
    kind: "txn",
    compares: Array.from({ length: uniform(rng, 3) }, () => compare(rng, choices)),
    success: ops(),
    failure: ops(),
  };
}

function compare(rng: Rng, { revision }: Choices): Compare {
  const target = pick(rng, ["version", "create", "mod", "value", "lease"] as const);
  const number = target === "version" ? uniform(rng, 3) : target === "lease" ? uniform(rng, 2) : uniform(rng, revision);
  return {
    ...keyRange(rng),
    result: pick(rng, ["equal", "greater", "less", "not_equal"]),
    target,
    operand: target === "value" ? value(rng) : BigInt(number),
  };
}
