/**
 * Where the time of a member goes under a load of the bench: self time by part and by function.
 * `deno run -A services/flaredb/test_profile_main.ts [insert|bulk|select|put...] [--connections 64] [--seconds 5]`
 */
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { componentEnv, sourceDeno, spawnDetached, waitReady } from "@ultracloud/launch";
import { describeProfile, profileDuring, startTestStack, workspaceRoot } from "@ultracloud/testing";
import { parseArgs } from "node:util";
import { drive } from "./_bench_cost.ts";
import { prepare, type Requests, requests, wrkScript } from "./_bench_requests.ts";

const { values, positionals } = parseArgs({
  args: [...Deno.args],
  allowPositionals: true,
  options: { connections: { type: "string", default: "64" }, seconds: { type: "string", default: "5" } },
});
const loads = Object.entries<Requests>(requests).filter(([name]) =>
  positionals.length === 0 || positionals.includes(name)
);
const unknown = positionals.filter((name) => !Object.hasOwn(requests, name));
if (unknown.length > 0) {
  console.error(`Cannot profile ${unknown.join(", ")}: wanted some of ${Object.keys(requests).join(", ")}`);
  Deno.exit(2);
}

await using test = await startTestStack({ components: ["flaredb"], start: false });
const { stack } = test;
const { manifest, dir } = stack.member("flaredb");
const { configDir, stateDir } = stack.placement("flaredb");
const scratch = await Deno.makeTempDir({ prefix: "uc-profile-" });
// Under all permissions: what looks into the runtime itself cannot be granted alone.
const process = spawnDetached({
  name: manifest.name,
  command: [
    ...sourceDeno(workspaceRoot),
    "-A",
    `--v8-flags=${manifest.v8.join(",")}`,
    `${dir}/test_profiled_main.ts`,
    "--config",
    `${configDir}/config.toml`,
  ],
  logFile: `${scratch}/flaredb.log`,
  env: componentEnv(),
});
try {
  const url = stack.endpoint("flaredb");
  await waitReady(url, { name: "flaredb", timeoutMs: 60_000, process });
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile: stack.operatorKeyFile }, {
    clock: systemClock,
  });
  const authorization = signer.authorization("flaredb");
  await prepare({ url, authorization });
  for (const [name, { method, bodies }] of loads) {
    const file = `${scratch}/${name}.lua`;
    await Deno.writeTextFile(file, wrkScript(bodies));
    const load = async (seconds: string) => {
      const path = `${url}/ultracloud.flaredb.v1.${method}`;
      const args = ["-t1", `-c${values.connections}`, `-d${seconds}s`, "--latency", "-s", file, path];
      const { out } = await drive("wrk", args, { BENCH_AUTHORIZATION: await authorization() });
      if (!/refused 0\b/.test(out)) throw new Error(`${method} was refused: ${out}`);
      return out;
    };
    await load("2");
    let out = "";
    const [profile] = await profileDuring([stateDir], async () => void (out = await load(values.seconds)));
    const rate = Number(/Requests\/sec:\s+([\d.]+)/.exec(out)![1]).toFixed(0);
    const p99 = /99%\s+(\S+)/.exec(out)![1];
    const title =
      `${name}, ${values.connections} connections: ${rate}/s while being profiled, p99 ${p99}, load of the ` +
      `machine ${Deno.loadavg()[0]!.toFixed(1)}`;
    console.log(describeProfile(title, profile!));
  }
} finally {
  await process.kill();
  await Deno.remove(scratch, { recursive: true });
}
