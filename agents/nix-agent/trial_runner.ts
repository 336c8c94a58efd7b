import { fault } from "@ultracloud/base";
import { commandLine, quoted } from "./domain/quote.ts";
import type { Trial } from "./domain/journal.ts";
import type { Nix } from "./nix.ts";
import { lastWords, runProgram } from "./programs.ts";
import { trialScript } from "./trial_script.ts";

/** `systemd`: a transient unit. `setsid`: a session of its own, followed by its journal. */
export type TrialLauncher = "systemd" | "setsid";

export interface TrialRunnerOptions {
  readonly stateDir: string;
  readonly launcher: TrialLauncher;
  readonly switchTimeoutMs: number;
}

export type TrialMode = "trial" | "verify" | "roll-back";

/** Starts the process that carries a trial, and reads what it says. There is one trial at a time. */
export class TrialRunner {
  readonly #o: TrialRunnerOptions;
  readonly #nix: Nix;

  constructor(options: TrialRunnerOptions, nix: Nix) {
    this.#o = options;
    this.#nix = nix;
  }

  get #dir(): string {
    return `${this.#o.stateDir}/trial`;
  }

  /** Starts it anew; what an earlier one left is gone. */
  async start(trial: Trial, mode: TrialMode, cause = ""): Promise<void> {
    await Deno.remove(this.#dir, { recursive: true }).catch(() => {});
    await Deno.mkdir(this.#dir, { recursive: true, mode: 0o700 });
    await Deno.writeTextFile(`${this.#dir}/env`, this.#environment(trial, mode, cause), { mode: 0o600 });
    const script = `${this.#o.stateDir}/trial.sh`;
    await Deno.writeTextFile(script, trialScript, { mode: 0o700 });
    const command = ["/bin/sh", script, this.#dir];
    const [program, args] = this.#o.launcher === "systemd"
      ? ["systemd-run", ["--quiet", "--collect", `--unit=ultracloud-trial-${trial.id}-${mode}`, ...command]] as const
      : ["setsid", ["--fork", ...command]] as const;
    const ended = await runDetached(program, args);
    if (ended !== undefined) throw fault("failed_precondition", "trial_unstarted", `Cannot start the trial: ${ended}`);
  }

  #environment(trial: Trial, mode: TrialMode, cause: string): string {
    const { system } = trial;
    const target = this.#nix.at(system.target_system);
    const seconds = (ms: number) => (ms / 1000).toFixed(3);
    const within = (ms: number, words: readonly string[]) => `timeout -k 10 ${seconds(ms)} ${commandLine(words)}`;
    const values: Record<string, string> = {
      MODE: mode,
      CAUSE: cause,
      TARGET: target,
      ACTION: system.activation === "reboot" ? "boot" : "switch",
      PREVIOUS: trial.previousSystem === "" ? "" : this.#nix.at(trial.previousSystem),
      PREVIOUS_GENERATION: String(trial.previousGeneration),
      GRACE: seconds(system.health_check_grace_ms),
      ATTEMPTS: String(system.health_check_attempts),
      INTERVAL: seconds(system.health_check_interval_ms),
      CONTACT: String(Math.ceil(system.contact_timeout_ms / 1000)),
    };
    const health = system.health_check_command === undefined
      ? "true"
      : within(system.health_check_timeout_ms, system.health_check_command);
    return [
      ...Object.entries(values).map(([name, value]) => `${name}=${quoted(value)}`),
      ...Object.entries(this.#nix.environment).map(([name, value]) => `export ${name}=${quoted(value)}`),
      `export UC_TARGET=${quoted(target)}`,
      `nix_env() { ${commandLine(this.#nix.profileCommand)} "$@"; }`,
      `switch_to() { timeout -k 10 ${seconds(this.#o.switchTimeoutMs)} "$1/bin/switch-to-configuration" "$2"; }`,
      // A program of the target comes before one of the host.
      `health() { ( PATH=${quoted(`${target}/bin`)}:$PATH; export PATH; ${health} ); }`,
      "",
    ].join("\n");
  }

  async #said(name: string): Promise<string | undefined> {
    try {
      return (await Deno.readTextFile(`${this.#dir}/${name}`)).trim();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
  }

  phase = (): Promise<string | undefined> => this.#said("phase");
  result = (): Promise<string | undefined> => this.#said("result");

  /** Lets a healthy trial become the system. */
  async confirm(): Promise<void> {
    await Deno.writeTextFile(`${this.#dir}/confirm`, "");
  }

  /**
   * Tells a loader that counts boots that this one was good. Until then it goes back by itself after a few that were
   * not, and the agent finds another system booted than the trial's; one that does not count takes no notice.
   */
  async blessBoot(): Promise<void> {
    if (this.#o.launcher === "systemd") await runProgram("systemctl", ["start", "systemd-bless-boot.service"]);
  }

  /** Whether the process that carries the trial lives: its pid, and that it is the same process still. */
  async alive(): Promise<boolean> {
    const self = await this.#said("self");
    if (self === undefined) return false;
    const pid = self.slice(0, self.indexOf(" "));
    if (!/^\d+$/.test(pid)) return false;
    const now = await runProgram("cat", [`/proc/${pid}/stat`]);
    const started = (stat: string) => stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
    const state = now.stdout.slice(now.stdout.lastIndexOf(")") + 2)[0];
    return now.code === 0 && state !== "Z" && started(now.stdout) === started(self);
  }
}

/** Starts a program that starts another and leaves; a sentence when it did not. Its child keeps no pipe of ours. */
async function runDetached(program: string, args: readonly string[]): Promise<string | undefined> {
  try {
    const child = new Deno.Command(program, { args: [...args], stdin: "null", stdout: "null", stderr: "null" }).spawn();
    const { code } = await child.status;
    return code === 0 ? undefined : `${program} ended with code ${code}`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Runs a check of the host within a minute; a sentence on how it failed. */
export async function failedCheck(
  argv: readonly string[],
  target: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const ended = await runProgram("timeout", ["-k", "5", "60", ...argv], { env: { UC_TARGET: target }, signal });
  return ended.code === 0 ? undefined : `${argv[0]} ended with code ${ended.code}: ${lastWords(ended)}`;
}
