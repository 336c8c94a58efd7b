import { invalidField } from "@ultracloud/base";
import type { Snapshot, SnapshotSchedule } from "./types.ts";

export const intervalMsMin = 1_000;
export const intervalMsMax = 366 * 24 * 3600 * 1000;
export const keepMax = 64;

export function checkSchedule(intervalMs: number, keep: number): { intervalMs: number; keep: number } {
  if (!Number.isSafeInteger(intervalMs) || intervalMs < intervalMsMin || intervalMs > intervalMsMax) {
    throw invalidField(
      "intervalMs",
      `Cannot take a snapshot every ${intervalMs} ms: wanted ${intervalMsMin} to ${intervalMsMax}`,
    );
  }
  if (keep < 1 || keep > keepMax) throw invalidField("keep", `Cannot keep ${keep} snapshots: wanted 1 to ${keepMax}`);
  return { intervalMs, keep };
}

/** When the next one is due: on the schedule's own beat; those that were missed are not made up for. */
export function nextAfter(schedule: Pick<SnapshotSchedule, "intervalMs" | "nextMs">, nowMs: number): number {
  const missed = Math.floor(Math.max(0, nowMs - schedule.nextMs) / schedule.intervalMs);
  return schedule.nextMs + (missed + 1) * schedule.intervalMs;
}

/** Name of the snapshot a schedule takes at an instant: the same instant is the same snapshot. */
export function snapshotName(scheduleName: string, dueMs: number): string {
  const time = new Date(dueMs).toISOString().replace(/[-:.]/g, "").toLowerCase();
  return `${scheduleName.slice(0, 40).replace(/-+$/, "")}-${time}`;
}

/** Snapshots of a schedule beyond what it keeps, oldest first. Those that are not whole count for nothing. */
export function expired<S extends { readonly createMs: number; readonly value: Pick<Snapshot, "state"> }>(
  snapshots: readonly S[],
  keep: number,
): S[] {
  const ready = snapshots.filter((s) => s.value.state === "ready").sort((a, b) => b.createMs - a.createMs);
  const failed = snapshots.filter((s) => s.value.state === "failed");
  return [...ready.slice(keep), ...failed].sort((a, b) => a.createMs - b.createMs);
}
