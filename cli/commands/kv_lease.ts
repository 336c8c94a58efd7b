import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import { LeaseService } from "@ultracloud/proto/chainfire/v1";
import type { Column } from "../frame/columns.ts";
import { command, parseDuration, type Run } from "../frame/command.ts";
import { following } from "./_members.ts";
import { type Encoding, encodingFlag, parseLease, shown } from "./_kv_bytes.ts";

const leasesOf = (run: Pick<Run, "session">) => following(run, LeaseService);
const idArg = { brief: "Lease", placeholder: "lease" } as const;

interface Lease {
  readonly id: string;
  readonly ttlMs?: string;
  readonly remainingMs?: string;
  readonly keys?: readonly string[];
}
const columns: readonly Column<Lease>[] = [
  { name: "lease", get: (l) => l.id },
  { name: "ttl", get: (l) => seconds(l.ttlMs), order: (l) => Number(l.ttlMs ?? 0) },
  { name: "remaining", get: (l) => seconds(l.remainingMs), order: (l) => Number(l.remainingMs ?? 0) },
  { name: "keys", get: (l) => l.keys?.join(" ") ?? "" },
];
const item = (value: Lease) => ({ value, json: value, name: value.id });

function seconds(ms: string | undefined): string {
  return ms === undefined ? "" : `${(Number(ms) / 1_000).toFixed(1)}s`;
}

/** The lease of an argument; usage failures have the form of all others. */
function leaseOf(given: string): bigint {
  try {
    return parseLease(given);
  } catch (cause) {
    throw fault("invalid_argument", "bad_lease", (cause as Error).message, { cause });
  }
}

const complete = async (session: Run["session"]) => (await leasesOf({ session }).leaseList({})).ids.map(String);

/** How long a lease lives, from text that is no flag. */
export function ttlOf(given: string): bigint {
  try {
    const ms = parseDuration(given);
    if (ms > 0) return BigInt(ms);
  } catch (cause) {
    throw fault("invalid_argument", "bad_ttl", (cause as Error).message, { cause });
  }
  throw fault("invalid_argument", "bad_ttl", `Cannot grant a lease for ${given}: wanted more than nothing`);
}

/**
 * Renews the lease until the signal is aborted, three times in its length. Rejects when it is lost, or when nobody
 * answered for as long as it lives.
 */
export async function keepAlive(run: Pick<Run, "session">, id: bigint, ttlMs: number, signal: AbortSignal) {
  const leases = leasesOf(run);
  let renewedMs = performance.now();
  while (!signal.aborted) {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.max(50, ttlMs / 3));
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
    if (signal.aborted) return;
    const askedMs = performance.now();
    try {
      await leases.leaseKeepAlive({ id }, { signal, timeoutMs: ttlMs });
      renewedMs = askedMs;
    } catch (error) {
      if (signal.aborted) return;
      const lost = (error as { code?: string }).code === "lease_not_found";
      if (lost || performance.now() - renewedMs >= ttlMs) throw error;
    }
  }
}

export const lease = buildRouteMap({
  docs: { brief: "Leases: keys bound to one go when nobody keeps it alive" },
  routes: {
    grant: command<{ id?: bigint }, [string]>({
      brief: "Grant a lease and print its id",
      args: [{ brief: "How long it lives without being kept alive: 30s, 5m", placeholder: "ttl" }],
      flags: { id: { kind: "parsed", parse: parseLease, optional: true, brief: "Id of your choice" } },
      async run(run, flags, ttl) {
        const { id, ttlMs } = await leasesOf(run).leaseGrant({ ttlMs: ttlOf(ttl), id: flags.id ?? 0n });
        if (run.flags.output !== "table" || run.flags.columns !== undefined) {
          return await run.items([item({ id: String(id), ttlMs: String(ttlMs) })], columns, true);
        }
        run.io.out(`${id}\n`);
        run.io.err(`Lease ${id} lives for ${seconds(String(ttlMs))}\n`);
      },
    }),
    revoke: command({
      brief: "End a lease and delete its keys",
      args: [idArg],
      complete,
      async run(run, _flags, given) {
        const id = leaseOf(given!);
        run.confirm(`End the lease ${id} and delete its keys?`);
        await leasesOf(run).leaseRevoke({ id });
        run.io.err(`Ended ${id}\n`);
      },
    }),
    keepAlive: command<{ once: boolean }, [string]>({
      brief: "Keep a lease alive until Ctrl-C",
      args: [idArg],
      complete,
      flags: { once: { kind: "boolean", default: false, brief: "Once, and end" } },
      async run(run, { once }, given) {
        const id = leaseOf(given);
        const { ttlMs } = await leasesOf(run).leaseKeepAlive({ id });
        run.io.err(`Lease ${id} lives for another ${seconds(String(ttlMs))}\n`);
        if (once) return;
        await keepAlive(run, id, Number(ttlMs), run.io.signal);
        run.io.signal.throwIfAborted();
      },
    }),
    ttl: command<{ encoding: Encoding }, [string]>({
      brief: "How long a lease still lives, and its keys",
      args: [idArg],
      complete,
      flags: encodingFlag,
      async run(run, { encoding }, given) {
        const id = leaseOf(given);
        const answer = await leasesOf(run).leaseTimeToLive({ id, keys: true });
        const value: Lease = {
          id: String(id),
          ttlMs: String(answer.grantedTtlMs),
          remainingMs: String(answer.remainingTtlMs),
          keys: answer.keys.map((key) => shown(key, encoding)),
        };
        await run.items([item(value)], columns, true);
      },
    }),
    list: command({
      brief: "List leases",
      async run(run) {
        const { ids } = await leasesOf(run).leaseList({});
        await run.items(ids.map((id) => item({ id: String(id) })), [columns[0]!]);
      },
    }),
  },
});
