import { Fault } from "@ultracloud/base";
import { loadConfig } from "@ultracloud/config";
import type { z } from "zod";

/**
 * Runs a program that does one thing and ends: configuration from `--config FILE` and flags, then the work. `--version`
 * says the version; a failure is one sentence and exit code 1, a signal ends the work with 130.
 */
export async function runOneShot<C>(
  options: { readonly name: string; readonly version: string; readonly schema: z.ZodType<C> },
  work: (config: C, signal: AbortSignal) => Promise<void>,
): Promise<never> {
  const { name, version, schema } = options;
  const args = [...Deno.args];
  if (args.includes("--version")) {
    console.log(`${name} ${version}`);
    Deno.exit(0);
  }
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(signal, () => stop.abort());
  try {
    const at = args.indexOf("--config");
    const file = at < 0 ? undefined : args.splice(at, 2)[1];
    await work(loadConfig(schema, { component: name, file, env: {}, args }).value, stop.signal);
  } catch (error) {
    if (stop.signal.aborted) Deno.exit(130);
    console.error(`${name}: ${error instanceof Fault ? `${error.message} [${error.code}]` : error}`);
    Deno.exit(1);
  }
  Deno.exit(0);
}
