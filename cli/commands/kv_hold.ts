import { fault, toHex } from "@ultracloud/base";
import { ElectionService, LeaseService, LockService } from "@ultracloud/proto/chainfire/v1";
import { command, parseDuration, type Run, text } from "../frame/command.ts";
import { asText, type Encoding, encodingFlag, pairColumns, pairItem, shown, toBytes } from "./_kv_bytes.ts";
import { following } from "./_members.ts";
import { keepAlive } from "./kv_lease.ts";

/** How long others wait for a holder that vanished, unless told otherwise. */
const ttlDefault = "30s";
/** The longest that one call may wait. */
const waitMsMax = 600_000;

const holdFlags = {
  ...encodingFlag,
  ttl: {
    kind: "parsed",
    parse: parseDuration,
    default: ttlDefault,
    brief: "How soon others get it when this one vanishes",
  },
  maxWait: { kind: "parsed", parse: parseDuration, default: "10m", brief: "How long to wait for it; 0s does not wait" },
} as const;

interface Held {
  readonly lease: bigint;
  readonly key: Uint8Array;
  readonly fencingToken: bigint;
}

/** The bounds of a wait as the calls want them. */
function waitOf(ms: number): { readonly waitMs: bigint; readonly timeoutMs: number } {
  const waitMs = Math.min(ms, waitMsMax - 5_000);
  return { waitMs: waitMs === 0 ? -1n : BigInt(waitMs), timeoutMs: waitMs + 5_000 };
}

/**
 * Holds what was won: keeps its lease alive while `command` runs, or until Ctrl-C without one. The command learns key
 * and fencing token by its environment, and is ended when they are lost.
 */
async function hold(run: Run, held: Held, ttlMs: number, words: readonly string[]): Promise<void> {
  const over = new AbortController();
  const signal = AbortSignal.any([run.io.signal, over.signal]);
  let lost: unknown;
  const keeping = keepAlive(run, held.lease, ttlMs, signal).catch((error) => {
    lost = error;
    over.abort();
  });
  const [program, ...args] = words;
  let code = 0;
  try {
    if (program === undefined) await keeping;
    else code = await runHolding(program, args, held, signal);
  } finally {
    over.abort();
    await keeping;
  }
  if (lost !== undefined) {
    throw fault("unavailable", "lease_lost", "Cannot hold it any longer: the lease could not be kept alive", {
      cause: lost,
    });
  }
  run.io.signal.throwIfAborted();
  if (code !== 0) {
    throw fault("aborted", "command_failed", `Cannot finish ${program}: it ended with ${code}`);
  }
}

/** Runs a program while something is held; it is told to end when the signal is aborted. Answers its exit code. */
async function runHolding(program: string, args: readonly string[], held: Held, signal: AbortSignal): Promise<number> {
  const child = new Deno.Command(program, {
    args: [...args],
    env: { UC_KEY: asText(held.key) ?? `0x${toHex(held.key)}`, UC_FENCING_TOKEN: String(held.fencingToken) },
  }).spawn();
  const end = () => {
    try {
      child.kill("SIGTERM");
    } catch {
      // It has ended by itself.
    }
  };
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  return (await child.status).code;
}

/** Gives the lease back, which also frees the place at once. */
async function release(run: Run, id: bigint): Promise<void> {
  // Also after Ctrl-C: otherwise the others wait as long as the lease lives.
  const signal = AbortSignal.timeout(5_000);
  await following(run, LeaseService).leaseRevoke({ id }, { signal }).catch(() => {});
}

interface HoldFlags {
  readonly encoding: Encoding;
  readonly ttl: number;
  readonly maxWait: number;
}

export const lock = command<HoldFlags, string[]>({
  brief: "Hold a lock until Ctrl-C, or while a command runs",
  details: "`uc kv lock backup -- ./backup.sh` runs the command once nobody else holds the lock. It finds UC_KEY and " +
    "UC_FENCING_TOKEN in its environment: what it writes to should refuse a token smaller than one it has seen.",
  variadic: { brief: "Name, then the command", placeholder: "name", minimum: 1 },
  flags: holdFlags,
  async run(run, flags, name, ...words) {
    const { waitMs, timeoutMs } = waitOf(flags.maxWait);
    const held = await following(run, LockService).lock({
      name: toBytes(name!, flags.encoding),
      ttlMs: BigInt(flags.ttl),
      waitMs,
    }, { timeoutMs });
    try {
      run.io.err(`Holding ${shown(held.key, flags.encoding)} with fencing token ${held.fencingToken}\n`);
      await hold(run, held, flags.ttl, words as string[]);
    } finally {
      await release(run, held.lease);
    }
  },
});

export const elect = command<HoldFlags & { listen: boolean; leader: boolean; value: string }, string[]>({
  brief: "Lead under a name until Ctrl-C or while a command runs, or watch who leads",
  variadic: { brief: "Name, then the command", placeholder: "name", minimum: 1 },
  flags: {
    ...holdFlags,
    value: { kind: "parsed", parse: text, default: "", brief: "What the others read about the leader" },
    leader: { kind: "boolean", default: false, brief: "Print who leads, and end" },
    listen: { kind: "boolean", default: false, brief: "Print who leads, and each change, until Ctrl-C" },
  },
  async run(run, flags, given, ...words) {
    const name = toBytes(given!, flags.encoding);
    const elections = following(run, ElectionService);
    if (flags.leader || flags.listen) {
      const show = async (kv: Parameters<typeof pairItem>[0] | undefined) => {
        if (kv === undefined) throw fault("not_found", "no_leader", `Cannot find a leader of ${given}`);
        await run.items([pairItem(kv, flags.encoding)], pairColumns, true);
      };
      if (flags.leader) return await show((await elections.leader({ name })).kv);
      for await (const { kv } of elections.observe({ name })) await show(kv);
      return;
    }
    const { waitMs, timeoutMs } = waitOf(flags.maxWait);
    const { leader } = await elections.campaign({
      name,
      value: toBytes(flags.value, flags.encoding),
      ttlMs: BigInt(flags.ttl),
      waitMs,
    }, { timeoutMs });
    if (leader === undefined) throw fault("internal", "no_leader_key", "Cannot lead: the answer names no key");
    try {
      run.io.err(`Leading as ${shown(leader.key, flags.encoding)} with fencing token ${leader.fencingToken}\n`);
      await hold(run, leader, flags.ttl, words as string[]);
    } finally {
      await release(run, leader.lease);
    }
  },
});
