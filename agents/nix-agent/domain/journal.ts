import type { DesiredSystem, SystemState } from "@ultracloud/cluster-state";

/** A generation that is not tried again until the intent changes. */
export interface Rejection {
  readonly intentId: string;
  readonly targetSystem: string;
  readonly reason: string;
  readonly timeMs: number;
}

/**
 * A generation on trial. It is written before the profile is touched, so that whoever finds it knows that the host may
 * be half way, and where it came from.
 */
export interface Trial {
  readonly id: string;
  readonly intentId: string;
  readonly system: DesiredSystem;
  /** 0: there was none, so there is nowhere to go back to. */
  readonly previousGeneration: number;
  readonly previousSystem: string;
  /** Boot in which it began; another one means that the host was restarted in the middle. */
  readonly bootId: string;
  /** Set once the generation is the boot default and the host was told to restart. */
  readonly rebooting: boolean;
}

/** What survives the agent and the host. */
export interface Journal {
  readonly version: 1;
  readonly state: SystemState;
  readonly reason: string;
  readonly intentId: string;
  readonly targetSystem: string;
  readonly changedMs: number;
  readonly trial?: Trial;
  readonly rejections: readonly Rejection[];
}

/** More intents than an operator has in mind; the oldest is forgotten first. */
export const rejectionsMax = 32;

export const emptyJournal: Journal = {
  version: 1,
  state: "idle",
  reason: "",
  intentId: "",
  targetSystem: "",
  changedMs: 0,
  rejections: [],
};

export function rejectionOf(journal: Journal, intentId: string): Rejection | undefined {
  return journal.rejections.find((rejection) => rejection.intentId === intentId);
}

/** What an agent that has just started makes of a trial it finds. */
export type Recovery =
  | { readonly kind: "none" }
  /** Whoever runs the trial is still there: wait for its result. */
  | { readonly kind: "adopt" }
  /** It ended while nobody looked. */
  | { readonly kind: "finish"; readonly result: string }
  /** The host came back with the generation that was to be tried by a restart. */
  | { readonly kind: "verify" }
  | { readonly kind: "roll-back"; readonly cause: string };

/** Decides about a trial that was under way when the agent, or the whole host, went. */
export function recover(
  trial: Trial | undefined,
  found: {
    readonly bootId: string;
    /** What the trial left as its result. */
    readonly result: string | undefined;
    readonly guardianAlive: boolean;
    /** System the host was booted with; undefined when nobody can tell. */
    readonly bootedSystem: string | undefined;
  },
): Recovery {
  if (trial === undefined) return { kind: "none" };
  if (found.bootId !== trial.bootId) {
    if (!trial.rebooting) return { kind: "roll-back", cause: "the host was restarted in the middle of the trial" };
    if (found.bootedSystem === trial.system.target_system) return { kind: "verify" };
    return { kind: "roll-back", cause: `the host did not boot it but ${found.bootedSystem ?? "something unknown"}` };
  }
  if (found.result !== undefined) return { kind: "finish", result: found.result };
  if (found.guardianAlive) return { kind: "adopt" };
  if (trial.rebooting) return { kind: "roll-back", cause: "the host was not restarted" };
  return { kind: "roll-back", cause: "the trial ended without a result" };
}
