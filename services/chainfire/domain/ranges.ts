import { compareBytes } from "@ultracloud/base";
import type { KeyRange } from "./types.ts";

export const noBytes: Uint8Array = new Uint8Array(0);

/** True for a range end that means "every key from `key` on". */
export function isOpenEnd(end: Uint8Array): boolean {
  return end.length === 1 && end[0] === 0;
}

export function rangeHas({ key, end }: KeyRange, candidate: Uint8Array): boolean {
  const order = compareBytes(candidate, key);
  if (end.length === 0) return order === 0;
  return order >= 0 && (isOpenEnd(end) || compareBytes(candidate, end) < 0);
}
