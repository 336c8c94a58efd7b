import { fault } from "@ultracloud/base";
import type { Io } from "../frame/io.ts";

/**
 * A secret from a file ("-" is standard input), or typed at a terminal without echo where no file is named. `what` names
 * it for people, as in "Password". Never from an argument: other users could read those.
 */
export async function secretFrom(io: Io, file: string | undefined, what: string): Promise<string> {
  if (file === "-") return withoutLineEnd(await new Response(Deno.stdin.readable).text(), what);
  if (file !== undefined) return withoutLineEnd(await Deno.readTextFile(file), what);
  return withoutLineEnd(io.interactive ? askHidden(io.ask, what) ?? "" : "", what);
}

/** Typed twice, as nobody sees what is typed. */
export async function newSecretFrom(io: Io, file: string | undefined, what: string): Promise<string> {
  const secret = await secretFrom(io, file, what);
  if (file !== undefined || (await secretFrom(io, undefined, `${what} again`)) === secret) return secret;
  throw fault("invalid_argument", "secrets_differ", "Cannot go on: the two were not the same");
}

function withoutLineEnd(text: string, what: string): string {
  const secret = text.replace(/[\r\n]+$/, "");
  if (secret !== "") return secret;
  throw fault(
    "invalid_argument",
    "no_secret",
    `Cannot go on without the ${what.toLowerCase()}: wanted a file or a terminal`,
  );
}

/** Reads a secret without echo. */
function askHidden(ask: Io["ask"], what: string): string | undefined {
  // Raw mode stops the echo; the line discipline no longer edits, which is fine for a pasted secret.
  Deno.stdin.setRaw(true, { cbreak: true });
  try {
    return ask(`${what}: `);
  } finally {
    Deno.stdin.setRaw(false);
    Deno.stderr.writeSync(new TextEncoder().encode("\n"));
  }
}
