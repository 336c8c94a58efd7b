import { readTextIfPresent } from "./_workspace.ts";

/** First line where a golden file and reality part, as a sentence; undefined when they agree. */
export function firstDifference(golden: string | undefined, actual: string): string | undefined {
  if (golden === actual) return undefined;
  if (golden === undefined) return "the file does not exist";
  const have = golden.split("\n");
  const want = actual.split("\n");
  for (let i = 0; i < Math.max(have.length, want.length); i++) {
    if (have[i] === want[i]) continue;
    return `line ${i + 1} is\n    ${have[i] ?? "(missing)"}\n  wanted\n    ${want[i] ?? "(nothing)"}`;
  }
  return undefined;
}

/** Compares `text` with the golden file at `path`, or rewrites it; a sentence when it is stale. */
export async function checkGolden(
  root: string,
  path: string,
  text: string,
  options: { update: boolean; updateCommand: string },
): Promise<string | undefined> {
  const golden = await readTextIfPresent(`${root}/${path}`);
  const difference = firstDifference(golden, text);
  if (difference === undefined) return undefined;
  if (options.update) {
    await Deno.mkdir(`${root}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true });
    await Deno.writeTextFile(`${root}/${path}`, text);
    return undefined;
  }
  return `${path} is stale: ${difference}\n  run: ${options.updateCommand}`;
}
