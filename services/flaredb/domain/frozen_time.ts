import { invalidField } from "@ultracloud/base";

type Argument = null | number | bigint | string | Uint8Array;

/** Date functions whose present time is frozen, with the position of their first time value. */
export const timeFunctions: Readonly<Record<string, number>> = {
  date: 0,
  time: 0,
  datetime: 0,
  julianday: 0,
  unixepoch: 0,
  strftime: 1,
};

/** `2026-01-31 10:20:30.400`, which every date function takes as a time value. */
export function timeText(timeMs: number): string {
  return new Date(timeMs).toISOString().slice(0, 23).replace("T", " ");
}

function isText(value: Argument | undefined, ...texts: readonly string[]): boolean {
  return typeof value === "string" && texts.includes(value.toLowerCase());
}

/** Modifiers that read the time zone of the machine, which differs between replicas. */
function refuseZones(args: readonly Argument[]): void {
  for (const arg of args) {
    if (isText(typeof arg === "string" ? arg.trim() : arg, "localtime", "utc")) {
      throw invalidField(
        "statement.sql",
        `Cannot use the date modifier '${arg}': wanted UTC throughout, as replicas may differ in time zone`,
        "sql_nondeterministic",
      );
    }
  }
}

/** The arguments with every mention of the present time replaced by `now`; what SQLite takes for it, word for word. */
export function freezeArguments(args: readonly Argument[], first: number, now: string): Argument[] {
  refuseZones(args);
  if (args.length <= first) return [...args, now];
  const head = args.slice(0, first), value = args[first]!, rest = args.slice(first + 1);
  // A leading sub-second modifier stands for the present time with that modifier.
  if (isText(value, "subsec", "subsecond")) return [...head, now, value, ...rest];
  return [...head, isText(value, "now") ? now : value, ...rest];
}

/** timediff(a, b): both are time values. */
export function freezeBoth(args: readonly Argument[], now: string): Argument[] {
  refuseZones(args);
  return args.map((arg) => isText(arg, "now", "subsec", "subsecond") ? now : arg);
}
