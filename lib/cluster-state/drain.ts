import { z } from "zod";

/**
 * The agreement between nix-agent and fleet-scheduler: no switch and no reboot while services still run.
 *
 * 1. nix-agent puts a request under `drainRequestKey(node)` on a chainfire lease of its own, so that an agent that is
 *    gone asks for nothing.
 * 2. fleet-scheduler answers under `drainAnswerKey(node)`: `draining` with its progress, `granted`, or `refused` with
 *    the reason. An answer counts only for the request whose id it carries.
 * 3. nix-agent switches only while the answer to its own request says `granted`.
 * 4. When it is done nix-agent removes the request. fleet-scheduler then lets services come back and removes its
 *    answer. A request that vanishes means the same.
 *
 * An answer `granted` is taken back by no one but the end of the request: who has granted places nothing on the node.
 */
export const drainPrefix = "/ultracloud/drain/";

export function drainRequestKey(node: string): string {
  return `${drainPrefix}requests/${node}`;
}

export function drainAnswerKey(node: string): string {
  return `${drainPrefix}answers/${node}`;
}

export const drainRequestSchema = z.strictObject({
  /** New with every wish; the answer repeats it. */
  id: z.string().min(1).max(64),
  node: z.string().min(1).max(63),
  reason: z.enum(["switch", "reboot"]),
  /** The closure the node is to become. */
  targetSystem: z.string().max(300),
  requestedMs: z.number().int(),
  /** After it nix-agent no longer waits. */
  deadlineMs: z.number().int(),
});
export type DrainRequest = z.infer<typeof drainRequestSchema>;

export const drainAnswerSchema = z.strictObject({
  requestId: z.string().min(1).max(64),
  state: z.enum(["draining", "granted", "refused"]),
  /** For people: what still runs, or why not. */
  reason: z.string().max(1024).default(""),
  /** Instances that still run on the node. */
  remaining: z.number().int().min(0).default(0),
});
export type DrainAnswer = z.infer<typeof drainAnswerSchema>;

/** How long a request outlives its agent. */
export const drainLeaseTtlMs = 30_000;

/** Where a node's desired system stands in chainfire, for agents that read it there; JSON of nix-agent's Desired. */
export function desiredKey(node: string): string {
  return `/ultracloud/systems/desired/${node}`;
}

/** Where such an agent says what it is. */
export function observedKey(node: string): string {
  return `/ultracloud/systems/observed/${node}`;
}
