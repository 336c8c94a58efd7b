import { configure, getLogger, type Logger as TapeLogger, type LogRecord } from "@logtape/logtape";
import { Redacted, utf8 } from "@ultracloud/base";

/** Values that belong to a log line. */
export type Fields = Readonly<Record<string, unknown>>;

/** Writes log lines. `msg` is a constant; whatever varies goes into `fields`. */
export interface Logger {
  /** Per request. */
  debug(msg: string, fields?: Fields): void;
  /** State changes. */
  info(msg: string, fields?: Fields): void;
  /** May need action. */
  warn(msg: string, fields?: Fields): void;
  /** Needs action. */
  error(msg: string, fields?: Fields): void;
  /** A logger that adds `fields` to each of its lines. */
  child(fields: Fields): Logger;
}

export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFormat = "json" | "pretty";

const secretKey = /^(authorization|password|secret|token|private_?key|cookie)$/i;

/** Names a secret may hide under never show their value, and an Error shows what it holds. */
function presentable(key: string, value: unknown): unknown {
  if (value instanceof Redacted) return value.toJSON();
  if (secretKey.test(key) && value !== undefined && value !== null) return "<redacted>";
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Error) {
    const { name, message, stack, cause } = value;
    const code = (value as { code?: unknown }).code;
    return {
      name,
      message,
      ...(code === undefined ? {} : { code }),
      stack,
      ...(cause === undefined ? {} : { cause }),
    };
  }
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  if (value instanceof Uint8Array) return `<${value.length} bytes>`;
  return value;
}

function stringify(value: unknown): string {
  try {
    return JSON.stringify(value, presentable) ?? "null";
  } catch (error) {
    return JSON.stringify(`<unprintable: ${error instanceof Error ? error.message : String(error)}>`);
  }
}

const levelNames: Readonly<Record<string, string>> = { warning: "warn", fatal: "error" };

function messageOf(record: LogRecord): string {
  return typeof record.rawMessage === "string" ? record.rawMessage : record.rawMessage.join("");
}

/** One JSON object per line: ts, level, category, msg, then the fields. */
export function jsonLine(record: LogRecord): string {
  const head = stringify({
    ts: new Date(record.timestamp).toISOString(),
    level: levelNames[record.level] ?? record.level,
    category: record.category.join("."),
    msg: messageOf(record),
  });
  const fields = stringify(record.properties);
  if (fields.startsWith('"')) return `${head.slice(0, -1)},"fields":${fields}}`;
  return fields === "{}" ? head : `${head.slice(0, -1)},${fields.slice(1)}`;
}

const colours: Readonly<Record<string, string>> = { debug: "90", info: "32", warn: "33", error: "31" };

/** For people at a terminal. */
export function prettyLine(record: LogRecord): string {
  const level = levelNames[record.level] ?? record.level;
  const time = new Date(record.timestamp).toISOString().slice(11, 23);
  const fields = Object.entries(record.properties).map(([key, value]) => {
    const shown = presentable(key, value);
    return `${key}=${typeof shown === "string" && !/[\s"]/.test(shown) ? shown : stringify(shown)}`;
  });
  const tail = fields.length === 0 ? "" : ` \x1b[90m${fields.join(" ")}\x1b[0m`;
  return `${time} \x1b[${colours[level] ?? "0"}m${level.padEnd(5)}\x1b[0m ${record.category.slice(1).join(".")}: ${
    messageOf(record)
  }${tail}`;
}

/** Writes all of `text` to stdout before it returns, so that the last line before an exit is not lost. */
function writeLine(text: string): void {
  let rest: Uint8Array = utf8.encode(text + "\n");
  try {
    while (rest.length > 0) rest = rest.subarray(Deno.stdout.writeSync(rest));
  } catch {
    // A closed pipe must not stop the process that logs into it.
  }
}

/** Sends every logger's lines of at least `level` to stdout. Call once per process, before the first line. */
export async function setupLogging(
  options: { readonly component: string; readonly level: LogLevel; readonly format: LogFormat },
): Promise<void> {
  const format = options.format === "pretty" ? prettyLine : jsonLine;
  await configure({
    reset: true,
    sinks: {
      stdout: (record) => writeLine(format(record)),
      stderr: (record) => console.error(jsonLine(record)),
    },
    loggers: [
      { category: ["uc"], lowestLevel: options.level === "warn" ? "warning" : options.level, sinks: ["stdout"] },
      { category: ["logtape", "meta"], lowestLevel: "warning", sinks: ["stderr"] },
    ],
  });
}

class CategoryLogger implements Logger {
  readonly #tape: TapeLogger;
  readonly #fields: Fields;
  constructor(tape: TapeLogger, fields: Fields) {
    this.#tape = tape;
    this.#fields = fields;
  }
  debug(msg: string, fields: Fields = {}): void {
    this.#tape.debug(msg, { ...this.#fields, ...fields });
  }
  info(msg: string, fields: Fields = {}): void {
    this.#tape.info(msg, { ...this.#fields, ...fields });
  }
  warn(msg: string, fields: Fields = {}): void {
    this.#tape.warn(msg, { ...this.#fields, ...fields });
  }
  error(msg: string, fields: Fields = {}): void {
    this.#tape.error(msg, { ...this.#fields, ...fields });
  }
  child(fields: Fields): Logger {
    return new CategoryLogger(this.#tape, { ...this.#fields, ...fields });
  }
}

/** The logger of a category, for example `logger("iam", "policy")`. Silent until `setupLogging` ran. */
export function logger(...category: string[]): Logger {
  return new CategoryLogger(getLogger(["uc", ...category]), {});
}

/** Drops everything. */
export const noopLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => noopLogger,
};
