import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import { type Fault, fault } from "@ultracloud/base";
import { RemoteFault, toFault } from "@ultracloud/rpc/client";
import { buildCommand, type Command, type TypedCommandParameters } from "@stricli/core";
import type { Column } from "./columns.ts";
import { exitCodeOf, exitCodes } from "./exit_codes.ts";
import type { Io, UcContext } from "./io.ts";
import { hintFor } from "./hints.ts";
import { type Item, type OutputFormat, outputFormats, printable, render } from "./render.ts";
import { Explained, Session } from "./session.ts";

/** Flags every command has. */
export interface CommonFlags {
  readonly output: OutputFormat;
  readonly columns?: string;
  readonly filter?: readonly string[];
  readonly sort?: string;
  readonly headers: boolean;
  readonly context?: string;
  readonly project?: string;
  readonly timeout: number;
  readonly wait: boolean;
  readonly yes: boolean;
  readonly explain: boolean;
  readonly dryRun: boolean;
  readonly debug: boolean;
}

/** "30s", "2m", "500ms" or plain seconds, in whole milliseconds. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text);
  if (!match) throw new Error(`Cannot read ${JSON.stringify(text)} as a duration: wanted 500ms, 30s, 2m, 1h or 90d`);
  const unitMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] ?? "s"]!;
  return Math.round(Number(match[1]) * unitMs);
}

/** Timers of the runtime hold 31 bits; a day is long enough for any command. */
const timeoutMsMax = 86_400_000;

/** How long a command may take: more than nothing, at most a day. */
export function parseTimeout(input: string): number {
  const ms = parseDuration(input);
  if (ms > 0 && ms <= timeoutMsMax) return ms;
  throw new Error(`Cannot wait ${JSON.stringify(input)}: wanted more than 0 and at most 24h`);
}

/** A whole number, with a minus when it is negative. */
export function parseInteger(input: string): number {
  const value = /^-?\d+$/.test(input) ? Number(input) : NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new Error(`Cannot read ${JSON.stringify(input)} as a number: wanted digits`);
}

export const text = (input: string): string => input;

const commonFlags = {
  output: { kind: "enum", values: outputFormats, default: "table", brief: "Form of the result" },
  columns: { kind: "parsed", parse: text, optional: true, brief: "Columns or dotted JSON paths, comma separated" },
  filter: {
    kind: "parsed",
    parse: text,
    optional: true,
    variadic: true,
    brief: "path=value or path!=value on the JSON form",
  },
  sort: { kind: "parsed", parse: text, optional: true, brief: "Column or JSON path; a leading minus reverses" },
  headers: { kind: "boolean", default: true, brief: "Print the header line of tables" },
  context: { kind: "parsed", parse: text, optional: true, brief: "Context to use (UC_CONTEXT)" },
  project: { kind: "parsed", parse: text, optional: true, brief: "org/project to work in (UC_PROJECT)" },
  timeout: { kind: "parsed", parse: parseTimeout, default: "60s", brief: "How long to wait in all" },
  wait: { kind: "boolean", default: true, brief: "Wait for long work; --no-wait prints the operation" },
  yes: { kind: "boolean", default: false, brief: "Do not ask" },
  explain: { kind: "boolean", default: false, brief: "Print the changing call instead of making it" },
  dryRun: { kind: "boolean", default: false, brief: "Check as far as possible, change nothing" },
  debug: { kind: "boolean", default: false, brief: "Print the calls on standard error, secrets masked" },
} as const;

const commonAliases = { o: "output", p: "project", y: "yes" } as const;

/** What a command's body gets. */
export interface Run {
  readonly session: Session;
  readonly io: Io;
  readonly flags: CommonFlags;
  /** Prints a list of messages; an empty list says so on standard error. */
  list<D extends DescMessage>(
    schema: D,
    values: readonly MessageShape<D>[],
    columns: readonly Column<MessageShape<D>>[],
  ): Promise<void>;
  /** Prints one message. */
  one<D extends DescMessage>(
    schema: D,
    value: MessageShape<D>,
    columns: readonly Column<MessageShape<D>>[],
  ): Promise<void>;
  /** Prints items that are no messages. */
  items<T>(items: readonly Item<T>[], columns: readonly Column<T>[], single?: boolean): Promise<void>;
  /** Asks before something that cannot be undone; `--yes` answers, no terminal refuses. */
  confirm(question: string): void;
}

/** Live names for the shell. */
type Complete = (session: Session, partial: string) => Promise<readonly string[]>;

type Positional = readonly {
  readonly brief: string;
  readonly placeholder: string;
  readonly optional?: boolean;
  readonly complete?: Complete;
}[];

export interface CommandSpec<F, A extends readonly (string | undefined)[]> {
  readonly brief: string;
  readonly details?: string;
  // deno-lint-ignore ban-types -- an empty object is the type of no flags
  readonly flags?: F extends object ? Record<string, unknown> : {};
  readonly args?: Positional;
  /** Last positional takes any number. */
  readonly variadic?: { readonly brief: string; readonly placeholder: string; readonly minimum?: number };
  /** The request itself carries `--dry-run` to the server; elsewhere the first changing call is printed, not made. */
  readonly dryRunOnServer?: boolean;
  /** For every positional that has none of its own. */
  readonly complete?: Complete;
  run(run: Run, flags: F, ...args: A): Promise<void>;
}

/** A command with the common flags, output and error contract around its body. */
export function command<F = Record<never, never>, A extends readonly (string | undefined)[] = readonly string[]>(
  spec: CommandSpec<F, A>,
): Command<UcContext> {
  const positionalOf = (
    { brief, placeholder, complete = spec.complete }: { brief: string; placeholder: string; complete?: Complete },
  ) => ({
    brief,
    placeholder,
    parse: text,
    ...(complete ? { proposeCompletions: (partial: string) => completions(complete, partial) } : {}),
  });
  const positional = spec.variadic
    ? {
      kind: "array",
      parameter: positionalOf(spec.variadic),
      ...(spec.variadic.minimum === undefined ? {} : { minimum: spec.variadic.minimum }),
    }
    : {
      kind: "tuple",
      parameters: (spec.args ?? []).map((p) => ({ ...positionalOf(p), ...(p.optional ? { optional: true } : {}) })),
    };
  const usage = usageOf(spec);
  const built = buildCommand({
    docs: {
      brief: spec.brief,
      ...(spec.details ? { fullDescription: spec.details } : {}),
      customUsage: [usage],
    },
    parameters: {
      flags: { ...commonFlags, ...spec.flags },
      aliases: commonAliases,
      positional,
    } as unknown as TypedCommandParameters<Record<string, unknown>, string[], UcContext>,
    async func(this: UcContext, given: Record<string, unknown>, ...args: string[]) {
      const flags = given as unknown as CommonFlags;
      this.process.exitCode = await runBody(
        this.io,
        flags,
        flags.explain || (flags.dryRun && spec.dryRunOnServer !== true),
        (run) => spec.run(run, flags as F, ...(args as unknown as A)),
      );
    },
  }) as unknown as Command<UcContext>;
  // In the help of a noun one line per verb, without the flags that every command has.
  return { ...built, formatUsageLine: ({ prefix }) => [...prefix, usage].join(" ") };
}

/** The usage line: what is needed, then what is possible, without the flags that every command has. */
function usageOf(spec: Pick<CommandSpec<unknown, never>, "flags" | "args" | "variadic">): string {
  const words = (spec.args ?? []).map((p) => p.optional ? `[<${p.placeholder}>]` : `<${p.placeholder}>`);
  if (spec.variadic) words.push(`<${spec.variadic.placeholder}>...`);
  for (const [camel, flag] of Object.entries(spec.flags ?? {})) {
    const { kind, optional, variadic, default: preset } = flag as {
      kind: string;
      optional?: boolean;
      variadic?: boolean;
      default?: unknown;
    };
    const name = `--${camel.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
    const text = `${name}${kind === "boolean" ? "" : " value"}`;
    words.push(
      optional || preset !== undefined ? `[${text}]${variadic ? "..." : ""}` : `${text}${variadic ? "..." : ""}`,
    );
  }
  return [...words, "[flags]"].join(" ");
}

/** Live names for the shell; a completion that fails or takes long proposes nothing. */
async function completions(
  complete: Complete,
  partial: string,
): Promise<readonly string[]> {
  const io: Io = {
    out: () => {},
    err: () => {},
    interactive: false,
    env: (name) => Deno.env.get(name),
    ask: () => undefined,
    signal: AbortSignal.timeout(800),
  };
  try {
    const session = new Session(io, { debug: false, explain: false, timeoutMs: 800 });
    return (await complete(session, partial)).filter((name) => name.startsWith(partial));
  } catch {
    return [];
  }
}

async function runBody(
  io: Io,
  flags: CommonFlags,
  explain: boolean,
  body: (run: Run) => Promise<void>,
): Promise<number> {
  try {
    const session = new Session(io, {
      context: flags.context,
      project: flags.project,
      debug: flags.debug,
      explain,
      timeoutMs: flags.timeout,
    });
    const print = async <T>(items: readonly Item<T>[], columns: readonly Column<T>[], single: boolean) => {
      const result = await render(items, columns, flags, single);
      if (result !== "") io.out(result + "\n");
    };
    await body({
      session,
      io,
      flags,
      async list(schema, values, columns) {
        if (values.length === 0 && (flags.output === "table" || flags.output === "wide")) {
          return io.err("Nothing found.\n");
        }
        await print(values.map((value) => itemOf(schema, value)), columns, false);
      },
      one: (schema, value, columns) => print([itemOf(schema, value)], columns, true),
      items: (items, columns, single = false) => print(items, columns, single),
      confirm(question) {
        if (flags.yes || flags.explain || flags.dryRun) return;
        if (!io.interactive) {
          throw fault(
            "invalid_argument",
            "needs_confirmation",
            `Cannot ask "${question}" without a terminal: wanted --yes`,
          );
        }
        if (!/^y(es)?$/i.test(io.ask(`${question} [y/N] `) ?? "")) {
          throw fault("cancelled", "not_confirmed", "Nothing was changed");
        }
      },
    });
    return exitCodes.ok;
  } catch (error) {
    if (error instanceof Explained) return exitCodes.ok;
    if (io.signal.aborted) return exitCodes.interrupted;
    return reportFailure(io, error, flags.debug);
  }
}

function itemOf<D extends DescMessage>(schema: D, value: MessageShape<D>): Item<MessageShape<D>> {
  const json = toJson(schema, value, { alwaysEmitImplicit: true }) as Record<string, unknown>;
  const meta = json.meta as { name?: string } | undefined;
  const key = typeof json.key === "string" ? json.key : "";
  return { value, json, name: meta?.name ?? String(json.name ?? json.id ?? key) };
}

/** A file that the person named and that cannot be used; undefined for any other failure. */
function fileFault(error: unknown): Fault | undefined {
  const { NotFound, PermissionDenied, IsADirectory, NotADirectory } = Deno.errors;
  if (![NotFound, PermissionDenied, IsADirectory, NotADirectory].some((kind) => error instanceof kind)) {
    return undefined;
  }
  // "No such file or directory (os error 2): readfile '/x'"
  const [, why, path] = /^(.*?)(?: \(os error \d+\))?: \w+ '(.*)'$/.exec((error as Error).message) ?? [];
  const message = path === undefined ? (error as Error).message : `Cannot use the file ${path}: ${why}`;
  return fault("invalid_argument", "file_unusable", message, { cause: error });
}

/** Prints a failure by the error contract and answers its exit code. */
export function reportFailure(io: Io, error: unknown, debug = false): number {
  const failure = fileFault(error) ?? toFault(error);
  const requestId = failure instanceof RemoteFault ? failure.remoteRequestId : "";
  // What a server says may quote what others wrote.
  io.err(`error[${printable(failure.code)}]: ${failure.message.split("\n").map(printable).join("\n")}\n`);
  const hint = hintFor(failure);
  if (hint) io.err(`hint: ${hint}\n`);
  if (failure.detail.field) io.err(`field: ${printable(failure.detail.field)}\n`);
  if (requestId) io.err(`request id: ${printable(requestId)}\n`);
  if (debug && error instanceof Error) io.err(`${error.stack}\n${error.cause ? `cause: ${error.cause}\n` : ""}`);
  return exitCodeOf(failure.kind);
}
