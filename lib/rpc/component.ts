import { type Clock, Fault, fault, type Rng, systemClock, systemRng } from "@ultracloud/base";
import { type BaseConfig, describeConfig, envNames, loadConfig } from "@ultracloud/config";
import { Health, type Logger, logger, Registry, setupLogging } from "@ultracloud/observe";
import type { z } from "zod";

/** What a component starts from. */
export interface Boot<C> {
  readonly config: C;
  readonly version: string;
  readonly log: Logger;
  readonly registry: Registry;
  readonly health: Health;
  readonly clock: Clock;
  readonly rng: Rng;
  /** Disposed last in, first out when the process stops: put every server, loop and file here. */
  readonly stack: AsyncDisposableStack;
  /** Aborted when the process is told to stop. */
  readonly signal: AbortSignal;
}

/** Disposing longer than this means something hangs; a supervisor would kill the process soon anyway. */
const stopMsMax = 15_000;

/**
 * Runs a component until SIGTERM or SIGINT: configuration, logging, `start`, wait, dispose, exit. A second signal
 * ends it at once. `--print-config` shows the effective configuration and leaves, `--version` the version; a failing start is logged as one
 * sentence and exits with 1.
 */
export async function runComponent<C extends BaseConfig>(
  options: { readonly name: string; readonly version?: string; readonly schema: z.ZodType<C> },
  start: (boot: Boot<C>) => Promise<void>,
): Promise<void> {
  const version = options.version ?? "0.1.0";
  if (Deno.args.includes("--version")) return console.log(`${options.name} ${version}`);
  const config = configure(options.name, options.schema);
  if (config === undefined) return;

  await setupLogging({ component: options.name, ...config.log });
  const log = logger(options.name);
  const health = new Health();
  const registry = new Registry();
  registry.buildInfo(options.name, version);
  const stack = new AsyncDisposableStack();
  const stopping = new AbortController();

  const onSignal = (name: string) => {
    if (stopping.signal.aborted) Deno.exit(130);
    log.info("stopping", { signal: name });
    health.set("process", "stopping", `${name} received`);
    stopping.abort(fault("cancelled", "stopping", "Cannot go on as the process is stopping"));
  };
  for (const name of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(name, () => onSignal(name));
  addEventListener("unhandledrejection", (event) => {
    // A bug: better a clean restart than a process that lost one of its loops.
    event.preventDefault();
    log.error("unhandled rejection", { error: event.reason });
    Deno.exit(70);
  });

  const stopped = new Promise<void>((resolve) => stopping.signal.addEventListener("abort", () => resolve()));
  health.set("process", "starting");
  let failed = false;
  try {
    const { signal } = stopping;
    await start({ config, version, log, registry, health, clock: systemClock, rng: systemRng, stack, signal });
    if (!signal.aborted) {
      health.set("process", "ready");
      log.info("started", { version, instance: config.instance });
    }
    await stopped;
  } catch (error) {
    if (!stopping.signal.aborted) {
      failed = true;
      log.error(sentence(error), { error });
    }
  }
  stopping.abort(fault("cancelled", "stopping", "Cannot go on as the process is stopping"));
  const tooLong = setTimeout(() => {
    log.error("cannot stop in time", { stopMsMax });
    Deno.exit(1);
  }, stopMsMax);
  try {
    await stack.disposeAsync();
  } catch (error) {
    failed = true;
    log.error("cannot stop cleanly", { error });
  }
  clearTimeout(tooLong);
  log.info("stopped");
  Deno.exit(failed ? 1 : 0);
}

/** The configuration; undefined when it was only to be shown. */
function configure<C extends BaseConfig>(name: string, schema: z.ZodType<C>): C | undefined {
  try {
    const { file, print, rest } = commandLine(Deno.args);
    const loaded = loadConfig(schema, { component: name, file, env: environment(schema, name), args: rest });
    if (print) {
      console.log(describeConfig(loaded));
      return undefined;
    }
    if (loaded.sources["log.format"] === "default" && Deno.stdout.isTerminal()) {
      return { ...loaded.value, log: { ...loaded.value.log, format: "pretty" } };
    }
    return loaded.value;
  } catch (error) {
    console.error(sentence(error));
    Deno.exit(1);
  }
}

function commandLine(args: readonly string[]): { file: string | undefined; print: boolean; rest: string[] } {
  let file: string | undefined;
  let print = false;
  const rest: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (arg === "--print-config") print = true;
    else if (arg.startsWith("--config=")) file = arg.slice("--config=".length);
    else if (arg === "--config") {
      file = args[++i];
      if (file === undefined) throw fault("invalid_argument", "config_invalid", "Cannot use --config without a file");
    } else rest.push(arg);
  }
  return { file, print, rest };
}

/** All variables, or those the schema knows when the process may not list them. */
function environment(schema: z.ZodType, name: string): Record<string, string> {
  try {
    return Deno.env.toObject();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
  }
  const env: Record<string, string> = {};
  for (const variable of envNames(schema, name)) {
    const value = Deno.env.get(variable);
    if (value !== undefined) env[variable] = value;
  }
  return env;
}

function sentence(error: unknown): string {
  return error instanceof Fault ? error.message : `Cannot start: ${error instanceof Error ? error.message : error}`;
}
