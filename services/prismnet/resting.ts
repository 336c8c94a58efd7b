import { claim, type NumberPool, type Platform, release, type Tx } from "@ultracloud/platform";

/**
 * Addresses that were given back and are not yet handed out again: caches and connections of others still know them by
 * their last holder. They stay claimed, by nobody, until their time is over.
 */

/** Long enough for neighbours' caches and most connections to end. */
export const addressGraceMsDefault = 60_000;
/** Woken in one transaction, and looked at in one sweep. */
const wakeBatch = 100;
const sweepMax = 10_000;
/** Addresses of the largest pool there is, a /16. */
export const addressesMax = 65_536;
/** Holder of every resting address. */
export const nobody = "resting";

interface Resting {
  readonly pool: string;
  readonly n: number;
  readonly freedMs: number;
}

const restKey = (pool: string, n?: number) => `resting|${pool}|${n ?? ""}`;
const asPool = (name: string): NumberPool => ({ name, first: 0, last: 0 });

/** Gives an address back for later; without a grace time it is free at once. */
export async function rest(tx: Tx, pool: NumberPool, n: number, holder: string, graceMs: number): Promise<void> {
  await release(tx, pool, n, holder);
  if (graceMs <= 0) return;
  if (!await claim(tx, pool, n, nobody)) return;
  tx.putRow(restKey(pool.name, n), { pool: pool.name, n, freedMs: tx.nowMs } satisfies Resting);
}

/** Claims one address for `holder`, a resting one too: who asks for it by name knows what it was. */
export async function claimAwake(tx: Tx, pool: NumberPool, n: number, holder: string): Promise<boolean> {
  if (await tx.row(restKey(pool.name, n)) !== undefined) await wake(tx, pool, n);
  return await claim(tx, pool, n, holder);
}

async function wake(tx: Tx, pool: NumberPool, n: number): Promise<void> {
  await release(tx, pool, n, nobody);
  tx.deleteRow(restKey(pool.name, n));
}

/** What to say of a pool that is full: how many of its addresses only rest. */
export async function restingText(tx: Tx, pool: NumberPool): Promise<string> {
  const count = (await tx.rows(restKey(pool.name))).length;
  return count === 0 ? "" : `; ${count} of them were given back and rest for a while`;
}

/** Frees everything of a pool that is about to go. */
export async function wakeAll(tx: Tx, pool: NumberPool): Promise<void> {
  for (const { value } of await tx.rows<Resting>(restKey(pool.name))) await wake(tx, pool, value.n);
}

/** Frees what has rested long enough; answers how many addresses that were. */
export async function wakeRested(platform: Platform, graceMs: number, signal?: AbortSignal): Promise<number> {
  const rows = await platform.kv.scan("rows", { prefix: "resting|", limit: sweepMax });
  const keys = rows.map(({ key }) => key);
  let woken = 0;
  for (let at = 0; at < keys.length; at += wakeBatch) {
    signal?.throwIfAborted();
    woken += await platform.transact(async (tx) => {
      let count = 0;
      for (const key of keys.slice(at, at + wakeBatch)) {
        // Read again: an address may have been taken by name, and given back anew, meanwhile.
        const row = await tx.row<Resting>(key);
        if (row === undefined || tx.nowMs - row.freedMs < graceMs) continue;
        await wake(tx, asPool(row.pool), row.n);
        count++;
      }
      return count;
    });
  }
  return woken;
}
