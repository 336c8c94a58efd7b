import { fault } from "@ultracloud/base";

/** What a program said that did not end well; more is in its own log. */
const wordsCharsMax = 2_000;

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a pinned program to its end. It is killed when the signal aborts. */
export async function runProgram(
  program: string,
  args: readonly string[],
  o: { readonly env?: Record<string, string>; readonly signal?: AbortSignal } = {},
): Promise<Ended> {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(program, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      ...o,
    }).output();
  } catch (cause) {
    throw fault("failed_precondition", "program_missing", `Cannot start ${program}: wanted it on the PATH`, { cause });
  }
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code: output.code, stdout: text(output.stdout), stderr: text(output.stderr) };
}

/** The last of what a program said, without the colours of a terminal, on one line. */
export function lastWords({ stdout, stderr }: Ended): string {
  // deno-lint-ignore no-control-regex -- the escapes are what is taken out
  const plain = (stderr.trim() || stdout.trim()).replaceAll(/\x1b\[[0-9;]*[A-Za-z]/g, "");
  return plain.split("\n").map((line) => line.trim()).filter((line) => line !== "").join("; ").slice(-wordsCharsMax);
}
