import type { Health, Logger } from "@ultracloud/observe";
import { z } from "zod";
import { type ConfinementKind, confinementKinds } from "./domain/confinement.ts";

/** What holds instances on this host. */
export interface HostConfinement {
  readonly kind: ConfinementKind;
  /** Names of the limits that hold. */
  readonly holds: readonly string[];
  /** For people: how it was found, and why the rest does not hold. */
  readonly reason: string;
}

const probeSchema = z.object({ kind: z.enum(confinementKinds), holds: z.array(z.string()), reason: z.string() });
const probeMsMax = 30_000;

/**
 * Asks the launcher what this host has. A host that has not what is `wanted` runs instances nevertheless, in process
 * groups, and says so in health, status and log.
 */
export async function probeHost(
  o: { readonly launcher: string; readonly wanted: "auto" | ConfinementKind },
  deps: { readonly log: Logger; readonly health: Health },
): Promise<HostConfinement> {
  let found: HostConfinement;
  try {
    const { success, stdout, stderr } = await new Deno.Command(o.launcher, {
      args: ["probe"],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      signal: AbortSignal.timeout(probeMsMax),
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    if (!success) throw new Error(text(stderr).slice(-300));
    found = probeSchema.parse(JSON.parse(text(stdout)));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    found = { kind: "group", holds: [], reason: `the launcher ${o.launcher} does not say what this host has: ${why}` };
    deps.health.set("confinement", "degraded", found.reason);
    deps.log.error("cannot look what holds instances here", { error: cause });
    return found;
  }
  if (o.wanted === "group" && found.kind !== "group") {
    found = { kind: "group", holds: [], reason: "it is set to use process groups alone" };
  } else if (o.wanted !== "auto" && o.wanted !== found.kind) {
    const reason = `wanted ${o.wanted}, found ${found.kind}: ${found.reason}`;
    deps.health.set("confinement", "degraded", reason);
    found = { ...found, reason };
  }
  deps.log.info("instances are held", { ...found });
  return found;
}
