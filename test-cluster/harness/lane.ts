import { Fault, fault } from "@ultracloud/base";
import type { Cluster } from "./cluster.ts";
import { Faults } from "./faults.ts";
import type { Substrate } from "./substrate.ts";

export interface CheckResult {
  readonly name: string;
  readonly ok: boolean;
  /** What was seen, or why it is wrong. */
  readonly detail: string;
  readonly durationMs: number;
}

/** Told what is being done, as it happens. */
export interface LaneProgress {
  step(text: string): void;
  check(result: CheckResult): void;
}

/** Words after the lane's name on the command line. */
export type LaneArgs = Readonly<Record<string, string>>;

/** A proof: what it starts from, and what it does. */
export interface Lane {
  readonly name: string;
  /** What a green run proves, in a sentence. */
  readonly summary: string;
  /** File of the cluster it needs, in test-cluster/profiles. */
  readonly profile: string;
  /** Components that the lane runs in machines of its own: the cluster file leaves them out, and nothing is missing. */
  readonly ownComponents?: readonly string[];
  /** The guest image is built before the lane begins. */
  readonly guestImage?: boolean;
  /** Fetches what the lane needs, while the host's network is there; the lane itself runs without. */
  prepare?(): Promise<void>;
  /** Options it takes, with what they mean. */
  readonly options?: Readonly<Record<string, string>>;
  /** Programs that run instead of a component's own, by component: with a planted fault, or on a crueller disk. */
  entries?(args: LaneArgs, substrate: Substrate["name"]): Readonly<Record<string, string>>;
  /** Components of the cluster file that do not run, as a substrate has no room for what the lane does not use. */
  leavesOut?(args: LaneArgs, substrate: Substrate["name"]): readonly string[];
  run(run: LaneRun): Promise<void>;
}

/** Thrown when a check failed: the rest of the lane would say nothing. It is in the result already. */
export class CheckFailed extends Error {
  override readonly name = "CheckFailed";
}

export interface LaneRunOptions {
  readonly cluster: Cluster;
  readonly args: LaneArgs;
  readonly artifactsDir: string;
  readonly guestImage: { readonly path: string; readonly sha256: string } | undefined;
  readonly signal: AbortSignal;
}

/** One run of a lane: its cluster, its findings, its evidence. */
export class LaneRun {
  readonly cluster: Cluster;
  readonly faults: Faults;
  readonly args: LaneArgs;
  readonly artifactsDir: string;
  readonly signal: AbortSignal;
  readonly checks: CheckResult[] = [];
  /** Figures and facts that belong into the result. */
  readonly facts: Record<string, unknown> = {};
  /** Parts of the lane that did not run, each with its reason. */
  readonly notRun: string[] = [];
  readonly #guestImage: LaneRunOptions["guestImage"];
  readonly #progress: LaneProgress;

  constructor(options: LaneRunOptions, progress: LaneProgress) {
    this.cluster = options.cluster;
    this.faults = new Faults(options.cluster);
    this.args = options.args;
    this.artifactsDir = options.artifactsDir;
    this.signal = options.signal;
    this.#guestImage = options.guestImage;
    this.#progress = progress;
  }

  get guestImage(): { readonly path: string; readonly sha256: string } {
    if (this.#guestImage) return this.#guestImage;
    throw new TypeError("Cannot use the guest image: wanted guestImage in the lane");
  }

  step(text: string): void {
    this.signal.throwIfAborted();
    this.#progress.step(text);
  }

  /** Proves one thing: `work` answers what it saw, or throws what is wrong, which ends the lane. */
  async check(name: string, work: () => Promise<string> | string): Promise<void> {
    this.step(name);
    const begin = performance.now();
    const end = (ok: boolean, detail: string) => {
      const result = { name, ok, detail, durationMs: Math.round(performance.now() - begin) };
      this.checks.push(result);
      this.#progress.check(result);
    };
    let detail: string;
    try {
      detail = await work();
    } catch (error) {
      this.signal.throwIfAborted();
      end(false, said(error));
      throw new CheckFailed(`${name}: ${said(error)}`, { cause: error });
    }
    end(true, detail);
  }

  /** Keeps something beside the result: text as it is, anything else as JSON. */
  async evidence(file: string, value: unknown): Promise<void> {
    const text = typeof value === "string" ? value : JSON.stringify(value, plain, 2) + "\n";
    await Deno.writeTextFile(`${this.artifactsDir}/${file}`, text);
  }

  /** Says that a part did not run; it stands in the result and on the terminal. */
  skip(part: string, reason: string): void {
    this.notRun.push(`${part}: ${reason}`);
    this.#progress.step(`not run: ${part}: ${reason}`);
  }
}

/** What a failure says to people. */
export function said(error: unknown): string {
  if (error instanceof Fault) return `${error.message} [${error.code}]`;
  return error instanceof Error ? error.message : String(error);
}

function plain(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

/** The number an option gives; `fallback` when it is absent. */
export function numberOption(args: LaneArgs, name: string, fallback: number): number {
  const text = args[name];
  const value = text === undefined ? fallback : Number(text);
  if (Number.isFinite(value) && value > 0) return value;
  throw fault("invalid_argument", "usage", `Cannot use --${name} ${text}: wanted a number above 0`);
}
