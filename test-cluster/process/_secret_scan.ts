import assert from "node:assert/strict";
import type { Stack } from "@ultracloud/launch";
import { findSecrets, type Secret, secretsBelow } from "@ultracloud/testing";

/** Fails when a log of the stack's components holds one of the secrets, or anything that looks like one. */
export async function assertLogsHoldNoSecret(stack: Stack, known: readonly string[]): Promise<void> {
  const secrets: Secret[] = [
    ...known.map((text) => ({ what: "a secret of this test", text })),
    ...await secretsBelow(`${stack.dataDir}/etc`),
    ...await secretsBelow(`${stack.dataDir}/state`),
  ];
  assert.ok(secrets.length > known.length, "no secret file was found, so nothing would be looked for");
  let bytes = 0;
  for await (const { name } of Deno.readDir(`${stack.dataDir}/log`)) {
    const log = await Deno.readTextFile(`${stack.dataDir}/log/${name}`);
    bytes += log.length;
    assert.deepEqual(findSecrets(name, log, secrets), []);
  }
  assert.ok(bytes > 0, "no log was written, so nothing was looked at");
  console.log(`${bytes} bytes of logs hold none of ${secrets.length} secrets and nothing that looks like one`);
}
