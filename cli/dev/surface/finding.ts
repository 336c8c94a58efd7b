/** One thing that a release must not ship. */
export interface Finding {
  /** Path from the root. */
  readonly file: string;
  /** From 1; 0 for a file as a whole. */
  readonly line: number;
  /** What was found there, as it stands. */
  readonly text: string;
  readonly reason: string;
}

/** A finding that is right as it is, and why. One that finds nothing any more is a finding itself. */
export interface Allowed {
  readonly file: string;
  /** Part of the line. */
  readonly text: string;
  readonly reason: string;
}

/** Files of a tree with their text, read once. */
export type Tree = ReadonlyMap<string, string>;

/** Every match of a pattern in a text with its line. */
export function* matches(text: string, pattern: RegExp): Generator<{ line: number; text: string; whole: string }> {
  const global = new RegExp(pattern.source, pattern.flags.includes("g") ? pattern.flags : `${pattern.flags}g`);
  for (const match of text.matchAll(global)) {
    const start = text.lastIndexOf("\n", match.index - 1) + 1;
    const end = text.indexOf("\n", match.index);
    yield {
      line: text.slice(0, match.index).split("\n").length,
      text: match[0].replaceAll(/\s+/g, " "),
      whole: text.slice(start, end < 0 ? text.length : end),
    };
  }
}
