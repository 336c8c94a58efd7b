import assert from "node:assert/strict";
import type { Stack } from "@ultracloud/launch";

/** What a token, a refresh token, a device token or a private key looks like, whoever made it. */
const shapes: Readonly<Record<string, RegExp>> = {
  "a signed token": /eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}/,
  "a refresh or device token": /uc[rd]_[0-9A-HJKMNP-TV-Z]{26}_[A-Za-z0-9_-]{20,}/,
  "a private key": /-----BEGIN [A-Z ]*PRIVATE KEY-----|"d"\s*:\s*"[A-Za-z0-9_-]{40,}"/,
};

/** Every secret in files below the stack's data directory: keys of identities, admin token, master keys. */
async function secretFiles(dir: string): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of Deno.readDir(dir)) {
    const path = `${dir}/${entry.name}`;
    if (entry.isDirectory) found.push(...await secretFiles(path));
    else if (/^(identity|signing)\.key$/.test(entry.name)) found.push(JSON.parse(await Deno.readTextFile(path)).d);
    else if (/^(admin\.token|master(\.next)?\.key)$/.test(entry.name)) {
      found.push((await Deno.readTextFile(path)).trim());
    }
  }
  return found;
}

/** Fails when a log of the stack's components holds one of the secrets, or anything that looks like one. */
export async function assertLogsHoldNoSecret(stack: Stack, known: readonly string[]): Promise<void> {
  const secrets = [
    ...known,
    ...await secretFiles(`${stack.dataDir}/etc`),
    ...await secretFiles(`${stack.dataDir}/state`),
  ];
  assert.ok(secrets.length > known.length, "no secret file was found, so nothing would be looked for");
  let bytes = 0;
  for await (const { name } of Deno.readDir(`${stack.dataDir}/log`)) {
    const log = await Deno.readTextFile(`${stack.dataDir}/log/${name}`);
    bytes += log.length;
    for (const secret of secrets) assert.ok(!log.includes(secret), `${name} holds a secret`);
    for (const [what, shape] of Object.entries(shapes)) assert.ok(!shape.test(log), `${name} holds ${what}`);
  }
  assert.ok(bytes > 0, "no log was written, so nothing was looked at");
  console.log(`${bytes} bytes of logs hold none of ${secrets.length} secrets and nothing that looks like one`);
}
