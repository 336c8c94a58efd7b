import { fault } from "@ultracloud/base";
import { keyAfter, type KvBackend, kvScanRowsMax } from "./kv.ts";
import { buckets, decodeJson } from "./records.ts";
import type { Tx } from "./transaction.ts";

/** A range of numbers handed out one holder each: addresses of a subnet, ports of a host. Both ends included. */
export interface NumberPool {
  readonly name: string;
  readonly first: number;
  readonly last: number;
  /** Where the first allocation of all looks; by default at `first`. */
  readonly start?: number;
}

/** Taken numbers looked at before the whole pool is read. */
const probesMax = 8;

function claimKey(pool: NumberPool, n: number): string {
  return `pool|${pool.name}|${String(n).padStart(10, "0")}`;
}

/**
 * The next free number, claimed for `holder` with the transaction. Goes round the pool, so that a released number
 * rests as long as possible. A full pool is resource_exhausted, code `pool_exhausted`.
 */
export async function allocate(tx: Tx, pool: NumberPool, holder: string): Promise<number> {
  const cursorKey = `cursor|${pool.name}`;
  const size = pool.last - pool.first + 1;
  const at = await tx.row<number>(cursorKey) ?? pool.start ?? pool.first;
  const start = at < pool.first || at > pool.last ? pool.first : at;
  const take = (n: number) => {
    tx.putRow(claimKey(pool, n), holder);
    tx.putRow(cursorKey, n === pool.last ? pool.first : n + 1);
    return n;
  };
  if (await tx.row(claimKey(pool, start)) === undefined) return take(start);
  // The next ones are mostly taken together: asked for at once, they cost the time of one.
  const others = Array.from(
    { length: Math.min(probesMax, size) - 1 },
    (_, i) => pool.first + (start - pool.first + i + 1) % size,
  );
  const holders = await Promise.all(others.map((n) => tx.row(claimKey(pool, n))));
  const free = others[holders.indexOf(undefined)];
  if (free !== undefined) return take(free);
  const prefix = `pool|${pool.name}|`;
  const taken = new Set((await tx.rows<string>(prefix)).map((row) => Number(row.key.slice(prefix.length))));
  for (let i = 0; i < size; i++) {
    const n = pool.first + (start - pool.first + i) % size;
    if (!taken.has(n) && await tx.row(claimKey(pool, n)) === undefined) return take(n);
  }
  throw fault("resource_exhausted", "pool_exhausted", `Cannot take from ${pool.name} as all ${size} are taken`);
}

/** Claims one number for `holder`; answers false when another holder has it. */
export async function claim(tx: Tx, pool: NumberPool, n: number, holder: string): Promise<boolean> {
  const key = claimKey(pool, n);
  const present = await tx.row<string>(key);
  if (present !== undefined) return present === holder;
  tx.putRow(key, holder);
  return true;
}

/** Gives a number back, if `holder` has it. */
export async function release(tx: Tx, pool: NumberPool, n: number, holder: string): Promise<void> {
  const key = claimKey(pool, n);
  if (await tx.row<string>(key) === holder) tx.deleteRow(key);
}

/** Drops what is kept about a pool that nobody holds a number of. */
export function forget(tx: Tx, pool: Pick<NumberPool, "name">): void {
  tx.deleteRow(`cursor|${pool.name}`);
}

/** Holders of numbers of the pool, at most `limit`. Not a condition: pair it with a guard. */
export async function poolHolders(
  kv: KvBackend,
  pool: Pick<NumberPool, "name">,
  limit: number,
): Promise<string[]> {
  const prefix = `pool|${pool.name}|`;
  const holders: string[] = [];
  let start: string | undefined;
  while (holders.length < limit) {
    const asked = Math.min(limit - holders.length, kvScanRowsMax);
    const rows = await kv.scan(buckets.rows, { prefix, limit: asked, ...(start === undefined ? {} : { start }) });
    for (const row of rows) holders.push(decodeJson<string>(row.value));
    if (rows.length < asked) break;
    start = keyAfter(rows.at(-1)!.key);
  }
  return holders;
}
