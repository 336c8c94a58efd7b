import { fault } from "@ultracloud/base";

/** A command line taken apart. */
export interface Words {
  /** Words that are no options, in order. */
  readonly plain: string[];
  /** `--name value` and `--name=value`; "" for one without a value. */
  readonly options: Readonly<Record<string, string>>;
  /** Everything after `--`. */
  readonly after: string[];
}

/** Options that take no value. */
const flags: ReadonlySet<string> = new Set(["keep", "apply", "help"]);

export function parseWords(argv: readonly string[]): Words {
  const end = argv.indexOf("--");
  const own = end < 0 ? argv : argv.slice(0, end);
  const plain: string[] = [];
  const options: Record<string, string> = {};
  for (let i = 0; i < own.length; i++) {
    const word = own[i] === "-h" ? "--help" : own[i]!;
    if (!word.startsWith("--")) {
      plain.push(word);
      continue;
    }
    const equals = word.indexOf("=");
    const name = equals < 0 ? word.slice(2) : word.slice(2, equals);
    const value = equals >= 0 ? word.slice(equals + 1) : flags.has(name) ? "" : own[++i];
    if (value === undefined) throw fault("invalid_argument", "usage", `Cannot use --${name}: wanted a value`);
    options[name] = value;
  }
  return { plain, options, after: end < 0 ? [] : argv.slice(end + 1) };
}
