import { fault, Redacted } from "@ultracloud/base";

/** Secrets are small; a larger file is a wrong path. */
const secretBytesMax = 64 * 1024;

/** The trimmed content of a secret file, which prints as `<redacted>` until it is exposed. */
export async function readSecret(path: string): Promise<Redacted<string>> {
  let text: string;
  try {
    const { size } = await Deno.stat(path);
    if (size > secretBytesMax) {
      throw fault(
        "invalid_argument",
        "secret_too_large",
        `Cannot read secret ${path} of ${size} bytes: wanted at most ${secretBytesMax}`,
      );
    }
    text = (await Deno.readTextFile(path)).trim();
  } catch (cause) {
    if (cause instanceof Error && cause.name === "Fault") throw cause;
    throw fault("failed_precondition", "secret_unreadable", `Cannot read secret ${path}`, { cause });
  }
  if (text === "") throw fault("failed_precondition", "secret_empty", `Cannot use secret ${path}: it is empty`);
  return new Redacted(text);
}
