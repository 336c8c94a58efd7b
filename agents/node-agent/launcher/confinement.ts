import type { ConfinementKind, Limits } from "../domain/confinement.ts";
import { openCgroup, probeCgroup } from "./cgroup.ts";
import { openScope, probeSystemd } from "./systemd.ts";

export type { Limits };

/** What the host can do for instances, as `launcher probe` prints it. */
export interface Probe {
  readonly kind: ConfinementKind;
  /** Limits that hold here. */
  readonly holds: readonly (keyof Limits)[];
  /** For people: how it was found, and why the rest does not hold. */
  readonly reason: string;
}

/** What holds an instance together and within its limits. Disposing of it forgets it; nothing is ended by that. */
export interface Confinement extends AsyncDisposable {
  /** For people: `cgroup: memoryBytes 67108864`. */
  readonly text: string;
  /** The command that starts `command` inside; it becomes it, so the process stays the same. */
  wrap(command: readonly string[]): readonly string[];
  /** Ends every process inside at once, whatever session it is in. */
  kill(): Promise<void>;
  /** True when the kernel ended a process inside because the limit of memory was reached. */
  outOfMemory(): Promise<boolean>;
}

/** The best that this host has: units where systemd runs, else a control group of our own, else a process group. */
export function probe(): Probe {
  const systemd = probeSystemd();
  if (systemd !== undefined) return systemd;
  const cgroup = probeCgroup();
  if (typeof cgroup !== "string") return cgroup;
  return { kind: "group", holds: [], reason: `no systemd runs here, and ${cgroup}` };
}

/** The limits of a spec that this host does not hold. */
export function unheld(limits: Limits, holds: readonly (keyof Limits)[]): (keyof Limits)[] {
  return (Object.keys(limits) as (keyof Limits)[]).filter((name) =>
    limits[name] !== undefined && !holds.includes(name)
  );
}

/** A confinement for the instance. What an earlier one of this name left is ended. */
export async function confine(
  o: { readonly stateDir: string; readonly id: string; readonly limits: Limits },
  host: Probe,
): Promise<Confinement> {
  const held = Object.fromEntries(
    Object.entries(o.limits).filter(([name, value]) =>
      value !== undefined && host.holds.includes(name as keyof Limits)
    ),
  ) as Limits;
  const text = [`${host.kind}:`, ...Object.entries(held).map(([name, value]) => `${name} ${value}`)].join(" ")
    .replace(/:$/, "");
  switch (host.kind) {
    case "systemd":
      return await openScope({ ...o, limits: held, text });
    case "cgroup":
      return await openCgroup({ ...o, limits: held, text });
    case "group":
      return {
        text,
        wrap: (command) => command,
        kill: () => Promise.resolve(),
        outOfMemory: () => Promise.resolve(false),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
  }
}
