import { fault, invalidField } from "@ultracloud/base";
import type { Tx } from "@ultracloud/platform";
import { sha256Hex } from "./hashes.ts";
import { rowKeys, type TokenRow } from "./kinds.ts";

export const tokenTtlMsDefault = 24 * 3_600_000;
export const tokenTtlMsMax = 30 * 24 * 3_600_000;
/** Kept for this long after their end, so that a late machine is told what is wrong. */
const keepMs = 7 * 24 * 3_600_000;

/** The life asked for; 0 means a day. */
export function tokenTtlOf(ttlMs: bigint, field: string): number {
  if (ttlMs < 0n || ttlMs > BigInt(tokenTtlMsMax)) {
    throw invalidField(field, `Cannot make a token that lives ${ttlMs} ms: wanted 0 to ${tokenTtlMsMax}`);
  }
  return ttlMs === 0n ? tokenTtlMsDefault : Number(ttlMs);
}

export function putToken(tx: Tx, sha256: string, row: TokenRow): void {
  tx.putRow(rowKeys.token(sha256), row, Math.max(1, row.expiresMs - tx.nowMs) + keepMs);
}

export async function tokenRow(tx: Tx, sha256: string): Promise<TokenRow | undefined> {
  return await tx.row<TokenRow>(rowKeys.token(sha256));
}

/**
 * The token that a machine brings, or an unauthenticated fault. It is good once: whoever used it first may repeat the
 * call, as power may go in the middle of an installation, and nobody else ever can.
 */
export async function checkToken(tx: Tx, token: string, machine: string): Promise<{ sha256: string; row: TokenRow }> {
  const refuse = (code: string, why: string) =>
    fault("unauthenticated", code, `Cannot accept the bootstrap token: ${why}`);
  const sha256 = sha256Hex(token);
  const row = await tokenRow(tx, sha256);
  if (row === undefined) throw refuse("token_unknown", "it is not known, or was replaced by another");
  if (row.spent === true) throw refuse("token_spent", "its node is installed");
  if (row.usedBy !== undefined && row.usedBy !== machine) throw refuse("token_used", "another machine used it");
  if (row.expiresMs <= tx.nowMs) throw refuse("token_expired", "it has expired");
  return { sha256, row };
}
