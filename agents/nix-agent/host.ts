import type { Nix } from "./nix.ts";
import { runProgram } from "./programs.ts";
import type { TrialLauncher } from "./trial_runner.ts";

/** There while systemd is the init of the host (sd_booted(3)). */
const bootedDir = "/run/systemd/system";

/** What the agent found on its host when it started. */
export interface Host {
  readonly launcher: TrialLauncher;
  /** For people: how the launcher was found. */
  readonly reason: string;
  readonly nixFound: boolean;
  /** What Nix calls itself, or why there is none. */
  readonly nix: string;
}

/** Looks what carries trials here, and which Nix there is. A launcher that was named is taken at its word. */
export async function probeHost(wanted: "auto" | TrialLauncher, nix: Nix): Promise<Host> {
  const { there: nixFound, text } = await nix.version();
  if (wanted !== "auto") return { launcher: wanted, reason: "it is set so", nixFound, nix: text };
  const booted = await runProgram("readlink", ["-e", bootedDir]);
  return booted.code === 0
    ? { launcher: "systemd", reason: `systemd runs here: ${bootedDir} is there`, nixFound, nix: text }
    : { launcher: "setsid", reason: `no systemd runs here: ${bootedDir} is not there`, nixFound, nix: text };
}
