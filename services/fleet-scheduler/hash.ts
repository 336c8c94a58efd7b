import { createHash } from "node:crypto";
import { templateOf } from "./domain/rollout.ts";
import type { ServiceSpec } from "./domain/types.ts";

/** JSON with the keys of every object in order: equal values have equal texts. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_, inner) =>
      inner !== null && typeof inner === "object" && !Array.isArray(inner)
        ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => a < b ? -1 : 1))
        : inner,
  ) ?? "null";
}

/** Of what a spec's processes are started from; 16 hexadecimal characters. */
export function templateHash(spec: ServiceSpec): string {
  return createHash("sha256").update(canonicalJson(templateOf(spec))).digest("hex").slice(0, 16);
}
