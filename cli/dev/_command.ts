import { parseArgs, type ParseArgsConfig } from "node:util";
import { fault } from "@ultracloud/base";

/** One repository command: what `deno task <name>` runs. */
export interface Command {
  readonly name: string;
  /** Text of `--help`. */
  readonly help: string;
  /** True when it ends by itself on Ctrl-C; otherwise its children are ended for it. */
  readonly handlesSignals?: boolean;
  /** Answers the exit code; throws a Fault whose message is shown as it stands. */
  run(args: readonly string[], root: string): Promise<number>;
}

/** `parseArgs` whose complaints are usage faults. */
export function parseFlags<T extends ParseArgsConfig>(config: T): ReturnType<typeof parseArgs<T>> {
  try {
    return parseArgs(config);
  } catch (cause) {
    throw fault("invalid_argument", "usage", cause instanceof Error ? cause.message : String(cause), { cause });
  }
}
