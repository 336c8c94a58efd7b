/** What a token, a refresh token, a device token or a private key looks like, whoever made it. */
const shapes: Readonly<Record<string, RegExp>> = {
  "a signed token": /eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}/,
  "a refresh or device token": /uc[rd]_[0-9A-HJKMNP-TV-Z]{26}_[A-Za-z0-9_-]{20,}/,
  "a private key": /-----BEGIN [A-Z ]*PRIVATE KEY-----|"d"\s*:\s*"[A-Za-z0-9_-]{40,}"/,
};

/** Shorter ones would be found by chance. */
const secretCharsMin = 12;

/** A secret and what it is; its text never leaves the scan. */
export interface Secret {
  readonly what: string;
  readonly text: string;
}

/** What the text holds that no log may hold, as sentences without the secret itself; empty when all is well. */
export function findSecrets(name: string, text: string, secrets: readonly Secret[]): string[] {
  const found = secrets.filter((secret) => text.includes(secret.text)).map(({ what }) => what);
  for (const [what, shape] of Object.entries(shapes)) if (shape.test(text)) found.push(what);
  return [...new Set(found)].map((what) => `${name} holds ${what}`);
}

/** The secret in a file that a component, an operator or a test keeps one in; undefined for any other file. */
export function secretOf(path: string, text: string): Secret | undefined {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const what = `the secret of ${path}`;
  let secret: string | undefined;
  if (/^(.+-)?(identity|signing)\.key$/.test(name)) secret = dOf(text);
  else if (/^(.+-)?(admin\.token|master(\.next)?\.key)$/.test(name)) secret = text.trim();
  // The middle of a key in PEM: its first line is the same for all of a kind.
  else if (/\.key$/.test(name)) secret = text.split("\n")[2]?.trim();
  return secret !== undefined && secret.length >= secretCharsMin ? { what, text: secret } : undefined;
}

function dOf(text: string): string | undefined {
  try {
    const { d } = JSON.parse(text) as { d?: unknown };
    return typeof d === "string" ? d : undefined;
  } catch {
    return undefined;
  }
}

/** Every secret in files below a directory; none when it is absent. */
export async function secretsBelow(dir: string): Promise<Secret[]> {
  const found: Secret[] = [];
  for (const path of await filesBelow(dir)) {
    if (!/\.(key|token)$/.test(path)) continue;
    const secret = secretOf(path, await Deno.readTextFile(path));
    if (secret) found.push(secret);
  }
  return found;
}

/** Paths of the files below a directory, links left out; none when it is absent. */
export async function filesBelow(dir: string): Promise<string[]> {
  const found: string[] = [];
  try {
    for await (const entry of Deno.readDir(dir)) {
      const path = `${dir}/${entry.name}`;
      if (entry.isDirectory) found.push(...await filesBelow(path));
      else if (entry.isFile) found.push(path);
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return found;
}

/** What the logs below one directory hold of the secrets that are kept below others, or of anything that looks like one. */
export async function secretsInLogs(
  logDir: string,
  secretDirs: readonly string[],
): Promise<{ readonly found: string[]; readonly bytes: number; readonly secrets: number }> {
  const secrets = (await Promise.all(secretDirs.map(secretsBelow))).flat();
  const found: string[] = [];
  let bytes = 0;
  for (const path of await filesBelow(logDir)) {
    const text = await Deno.readTextFile(path);
    bytes += text.length;
    found.push(...findSecrets(path, text, secrets));
  }
  return { found, bytes, secrets: secrets.length };
}
