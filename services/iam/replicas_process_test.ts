import assert from "node:assert/strict";
import { generateIdentity } from "@ultracloud/authz";
import { type ComponentProcess, freePort, spawnComponent, type Stack, waitReady } from "@ultracloud/launch";
import { TokenService } from "@ultracloud/proto/iam/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack, workspaceRoot } from "@ultracloud/testing";
import { parse, stringify } from "smol-toml";
import { until } from "./test_world.ts";

const atOnce = 16;

/** Another process of iam over the same flaredb, with the secrets and the identity of the first. */
async function replica(stack: Stack, n: number): Promise<{ process: ComponentProcess; url: string }> {
  const { manifest, dir } = stack.member("iam");
  const first = stack.placement("iam");
  const listen = `127.0.0.1:${freePort()}`;
  const placement = {
    ...first,
    configDir: `${stack.dataDir}/etc/iam-${n}`,
    stateDir: `${stack.dataDir}/state/iam-${n}`,
    runDir: `${stack.runDir}/iam-${n}`,
    listen: { rpc: listen },
  };
  for (const path of [placement.configDir, placement.stateDir, placement.runDir]) {
    await Deno.mkdir(path, { recursive: true, mode: 0o700 });
  }
  const copied: Record<string, string> = {};
  for (const name of ["identity.key", "admin.token", "signing.key", "master.key"]) {
    copied[name] = `${placement.configDir}/${name}`;
    await Deno.copyFile(`${first.configDir}/${name}`, copied[name]!);
    await Deno.chmod(copied[name]!, 0o600);
  }
  const config = parse(await Deno.readTextFile(`${first.configDir}/config.toml`));
  const own = {
    ...config,
    instance: String(n),
    rpc: { listen },
    stateDir: placement.stateDir,
    runDir: placement.runDir,
    identityKeyFile: copied["identity.key"],
    adminTokenFile: copied["admin.token"],
    signingKeyFile: copied["signing.key"],
    masterKeyFile: copied["master.key"],
  };
  await Deno.writeTextFile(`${placement.configDir}/config.toml`, stringify(own), { mode: 0o600 });
  const process = spawnComponent({
    manifest,
    placement,
    program: { kind: "source", root: workspaceRoot, entry: `${dir}/${manifest.entry}` },
    logFile: `${stack.dataDir}/log/iam-${n}.log`,
  });
  const url = `http://${listen}`;
  try {
    await waitReady(url, { name: `iam ${n}`, timeoutMs: 60_000, process });
  } catch (error) {
    await process.kill();
    throw error;
  }
  return { process, url };
}

Deno.test("iam in production mode runs as three replicas; killing two under load fails no call", async () => {
  await using closing = new AsyncDisposableStack();
  const overrides: Record<string, unknown> = { mode: "production" };
  const { stack, ...test } = await startTestStack({
    components: ["flaredb", "iam"],
    start: false,
    overrides: { iam: overrides },
  });
  closing.defer(() => test[Symbol.asyncDispose]());
  const { configDir } = stack.placement("iam");
  const { privateKey } = await generateIdentity();
  const secrets = {
    "signing.key": JSON.stringify(privateKey),
    "master.key": crypto.getRandomValues(new Uint8Array(32)).toHex(),
  };
  for (const [name, text] of Object.entries(secrets)) {
    await Deno.writeTextFile(`${configDir}/${name}`, text, { mode: 0o600 });
  }
  const config = parse(await Deno.readTextFile(`${configDir}/config.toml`));
  const files = { signingKeyFile: `${configDir}/signing.key`, masterKeyFile: `${configDir}/master.key` };
  await Deno.writeTextFile(`${configDir}/config.toml`, stringify({ ...config, ...files }));
  await stack.startAll({ timeoutMs: 60_000 });
  const others = [];
  for (const n of [1, 2]) {
    const other = await replica(stack, n);
    closing.defer(() => other.process.stop());
    others.push(other);
  }
  const endpoints = [stack.endpoint("iam"), ...others.map((o) => o.url)];
  const adminToken = (await Deno.readTextFile(stack.adminTokenFile)).trim();
  const { accessToken } = await closing.use(createRpcClient(TokenService, { endpoints })).bootstrapToken({
    adminToken,
  });
  // As every client does, a read that found a dead replica is asked of the next one. Each loop starts at another.
  const load = Array.from({ length: atOnce }, (_, i) => {
    const rotated = endpoints.map((_, j) => endpoints[(i + j) % endpoints.length]!);
    const authorization = () => `Bearer ${accessToken}`;
    return closing.use(createRpcClient(TokenService, { endpoints: rotated, authorization }));
  });
  let answered = 0;
  const failures: string[] = [];
  let over = false;
  const running = load.map(async (client) => {
    while (!over) {
      try {
        await client.whoAmI({});
        answered++;
      } catch (error) {
        failures.push(String(error));
      }
    }
  });
  const more = async (count: number) => {
    const wanted = answered + count;
    await until(`${count} more calls are answered`, () => answered >= wanted);
  };
  await more(300);
  assert.deepEqual(failures, []);
  await stack.process("iam")!.kill();
  await more(300);
  assert.deepEqual(failures, []);
  await others[0]!.process.kill();
  await more(300);
  over = true;
  await Promise.all(running);
  assert.deepEqual(failures, []);
  console.log(`${answered} calls answered, ${failures.length} failed, while two of three replicas were killed`);
  // The last one does everything the others did.
  const last = closing.use(createRpcClient(TokenService, { endpoints: [others[1]!.url] }));
  assert.ok((await last.bootstrapToken({ adminToken })).accessToken);
});
