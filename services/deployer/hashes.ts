import { createHash, randomBytes } from "node:crypto";
import { type DesiredSystem, desiredSystemSchema } from "@ultracloud/cluster-state";

export function sha256Hex(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** A bootstrap token: 256 bits, safe in URLs and on a kernel command line. */
export function newToken(): string {
  return `ucb_${randomBytes(32).toString("base64url")}`;
}

/** Names a desired system by what is in it: equal wishes have one id, on every replica and after every restore. */
export function intentIdOf(system: DesiredSystem): string {
  // Parsed again: the order of keys is that of the schema, not of whoever wrote it.
  return sha256Hex(JSON.stringify(desiredSystemSchema.parse(system))).slice(0, 32);
}
