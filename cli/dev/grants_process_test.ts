import assert from "node:assert/strict";
import { type ComponentManifest, envPrefix, permissionsOf, type Placement } from "@ultracloud/base";
import { freePort, loadFleet } from "@ultracloud/launch";
import { capture } from "./_process.ts";

/** Tries what its argument names and prints, for each, "done" or the name of the error. */
const probe = `
const tries = JSON.parse(Deno.args[0]);
const how = {
  read: (path) => Deno.stat(path),
  write: (path) => Deno.writeTextFile(path, "x"),
  connect: async (port) => (await Deno.connect({ hostname: "127.0.0.1", port })).close(),
  listen: (port) => Deno.listen({ hostname: "127.0.0.1", port }).close(),
  run: (program) => new Deno.Command(program, { args: ["--version"] }).output(),
  env: (name) => Deno.env.get(name),
};
const outcome = {};
for (const [what, target] of tries) {
  try {
    await how[what](target);
    outcome[what + " " + target] = "done";
  } catch (error) {
    outcome[what + " " + target] = error.name;
  }
}
console.log(JSON.stringify(outcome));
`;

type Try = readonly [what: string, target: string | number];

async function outcomes(dir: string, flags: readonly string[], tries: readonly Try[]): Promise<Record<string, string>> {
  await Deno.writeTextFile(`${dir}/probe.js`, probe);
  const run = await capture(Deno.execPath(), {
    args: ["run", "-q", "--no-config", "--no-lock", ...flags, `${dir}/probe.js`, JSON.stringify(tries)],
    cwd: dir,
  });
  assert.equal(run.code, 0, run.stderr);
  return JSON.parse(run.stdout);
}

/** One component alone in `dir`, its callees on free ports. */
async function placed(dir: string, manifest: ComponentManifest): Promise<Placement> {
  const at = (name: string) => `${dir}/${name}`;
  for (const name of ["etc", "etc/own", "state", "run", "neighbour"]) await Deno.mkdir(at(name));
  await Deno.writeTextFile(at("trust.json"), "{}");
  const listen: Record<string, string> = {};
  for (const name of Object.keys(manifest.listen)) listen[name] = `127.0.0.1:${freePort()}`;
  const callees: Record<string, string[]> = {};
  for (const callee of manifest.calls) callees[callee] = [`127.0.0.1:${freePort()}`];
  return {
    configDir: at("etc/own"),
    stateDir: at("state"),
    runDir: at("run"),
    trustFile: at("trust.json"),
    listen,
    callees,
  };
}

const fleet = await loadFleet(new URL("../..", import.meta.url).pathname.replace(/\/$/, ""));

for (const [name, { manifest }] of fleet) {
  Deno.test(`${name} may use what its manifest grants and is refused everything beside it`, async () => {
    const dir = await Deno.makeTempDir({ prefix: "uc-grants-" });
    try {
      const placement = await placed(dir, manifest);
      const flags = permissionsOf(manifest, placement);
      const granted: Try[] = [
        ["read", placement.configDir],
        ["read", placement.trustFile],
        ["write", `${placement.stateDir}/own`],
        ["write", `${placement.runDir}/own`],
        ["env", `${envPrefix(manifest.name)}LOG__LEVEL`],
        ...Object.values(placement.listen).map((address): Try => ["listen", Number(address.split(":").at(-1))]),
      ];
      const refused: Try[] = [
        ["read", `${dir}/neighbour`],
        ["read", "/etc/shadow"],
        // What renews certificates writes beside the configurations of its host.
        ...(manifest.write?.includes("${dir.etc}") ? [] : [["write", `${placement.configDir}/config.toml`] as const]),
        ["write", placement.trustFile],
        ["write", `${dir}/neighbour/state`],
        ["connect", freePort()],
        ["listen", freePort()],
        ["run", "sh"],
        ["run", Deno.execPath()],
        ["env", "UC_NEIGHBOUR_KEY"],
      ];
      const outcome = await outcomes(dir, flags, [...granted, ...refused]);
      for (const [what, target] of granted) assert.equal(outcome[`${what} ${target}`], "done", `${what} ${target}`);
      for (const [what, target] of refused) {
        assert.equal(outcome[`${what} ${target}`], "NotCapable", `${what} ${target}`);
      }
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  });
}

Deno.test("the fleet is not empty", () => {
  assert.ok(fleet.size > 0);
});
