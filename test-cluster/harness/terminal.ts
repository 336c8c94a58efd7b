import type { CheckResult, LaneProgress } from "./lane.ts";

const colour = Deno.stdout.isTerminal() && Deno.env.get("NO_COLOR") === undefined;
const paint = (code: number, text: string) => colour ? `\x1b[${code}m${text}\x1b[0m` : text;
export const green = (text: string) => paint(32, text);
export const red = (text: string) => paint(31, text);
export const yellow = (text: string) => paint(33, text);
export const bold = (text: string) => paint(1, text);
export const dim = (text: string) => paint(2, text);

/** `1:03.2` for 63 200 ms. */
export function clockText(ms: number): string {
  const minutes = Math.floor(ms / 60_000);
  return `${minutes}:${((ms % 60_000) / 1000).toFixed(1).padStart(4, "0")}`;
}

/** Rows with aligned columns. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, cell.length));
  return rows.map((row) => row.map((cell, i) => cell.padEnd(widths[i]!)).join("  ").trimEnd()).join("\n");
}

/** Live progress on the terminal: one line for each step and each check, with the time since the start. */
export function terminalProgress(say: (line: string) => void = console.log): LaneProgress {
  const begin = performance.now();
  const at = () => dim(clockText(performance.now() - begin));
  return {
    step: (text) => say(`${at()} ${text} ...`),
    check({ name, ok, detail }: CheckResult) {
      say(`${at()} ${ok ? green("ok") : red("FAILED")} ${bold(name)}${detail === "" ? "" : `: ${detail}`}`);
    },
  };
}
