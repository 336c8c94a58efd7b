import { certificateSha256 } from "@ultracloud/bootstrap";
import { markerNames } from "@ultracloud/cluster-state";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import { createTestCa, workspaceRoot } from "@ultracloud/testing";
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { machineArgs, type MachineSpec, makeMachine } from "../baremetal/machine.ts";
import { prepareBareMetal } from "../baremetal/prepared.ts";
import { BareSite, machines, type NodeName } from "../baremetal/site.ts";
import { operatorDir } from "../harness/keys.ts";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { startMockBmc } from "./mock/bmc.ts";
import { QemuMachine } from "./mock/qemu_machine.ts";
import { type QuirkProfile, quirkProfiles } from "./mock/quirks.ts";
import { exitCodes } from "./smoke/main.ts";
import { parseStatus } from "./smoke/run_dir.ts";

const siteNode = "site01";
const credentials = { username: "operator", password: "bmc p4ss:wörd" };
/** Half a minute is usual under the emulator; a loaded host takes minutes. */
const markerTimeoutSeconds = 240;

interface Case {
  readonly node: NodeName;
  readonly quirks: QuirkProfile;
  readonly trust: "ca" | "fingerprint";
  /** Whether the machine runs something when the operator comes: then it is restarted, not switched on. */
  readonly running: boolean;
}
const cases: readonly Case[] = [
  { node: "control01", quirks: "supermicro-like", trust: "fingerprint", running: false },
  { node: "worker01", quirks: "idrac-like", trust: "ca", running: true },
];

/**
 * What an operator does with two machines and their BMCs: the medium, the installer, the deployer and the systems are the
 * real ones, the operator's program is started as its own process. Machines and BMCs are played, by QEMU and over it.
 */
export const hardwareSmokeProof: Lane = {
  name: "hardware-smoke-proof",
  summary: "`deno task hardware-smoke run` installs two machines through BMCs with the habits of two makes",
  profile: "baremetal",
  ownComponents: ["installer", "install-target", "first-boot-automation", "nix-agent"],
  prepare: prepareBareMetal,
  async run(run) {
    const dir = await Deno.makeTempDir({ prefix: "uc-smoke-" });
    await using _gone = { [Symbol.asyncDispose]: () => Deno.remove(dir, { recursive: true }) };
    await using site = await BareSite.open(run);
    const { accelerator } = site.prepared;
    run.facts.vm_accelerator_mode = accelerator.mode;
    run.facts.vm_accelerator_reason = accelerator.reason;
    run.facts.iso = site.prepared.iso;
    await writeContext(run, dir);
    // Every node of the file has to become something; only two are installed.
    const nodes = Object.keys(machines) as NodeName[];
    await site.wish(Object.fromEntries(nodes.map((node) => [node, { system: "uc-base" }])));
    // Two machines, one for each processor.
    const stood = await Promise.allSettled(cases.map((one) => installByBmc(run, site, one, dir)));
    for (const result of stood) if (result.status === "rejected") throw result.reason;
    run.skip("a BMC of a maker, and a stick in a machine", "there is no hardware on the machines this is built on");
  },
};

/** A context of `uc` for the deployer of the cluster, as an operator has one. */
async function writeContext(run: LaneRun, into: string): Promise<void> {
  const dir = operatorDir(run.cluster.home.stateDir);
  const deployer = `https://${run.cluster.file.nodes[siteNode]!.address}`;
  await Deno.writeTextFile(
    contextFile(into),
    JSON.stringify({
      version: 1,
      current: "proof",
      contexts: {
        proof: {
          clusterId: run.cluster.file.clusterId,
          endpoint: deployer,
          operatorKeyFile: `${dir}/identity.key`,
          tls: { certFile: `${dir}/tls.crt`, keyFile: `${dir}/tls.key`, caFile: `${dir}/tls-ca.crt` },
        },
      },
    }),
    { mode: 0o600 },
  );
}

const contextFile = (dir: string) => `${dir}/uc.json`;

async function installByBmc(run: LaneRun, site: BareSite, one: Case, top: string): Promise<void> {
  const { node, quirks, trust } = one;
  const dir = `${top}/${node}`;
  const spec: MachineSpec = {
    dir: `${dir}/machine`,
    name: node,
    ...machines[node],
    accelerator: site.prepared.accelerator.mode,
  };
  await makeMachine(spec);
  const serialFile = `${dir}/console.log`;
  await Deno.writeTextFile(serialFile, "");
  const ca = await createTestCa(`BMC of ${node}`);
  const leaf = await ca.issue();
  await using machine = new QemuMachine({ argv: machineArgs(spec), dir, serialFile });
  await using bmc = startMockBmc({
    quirks: quirkProfiles[quirks],
    ...credentials,
    serial: spec.serial,
    dir,
    tls: leaf,
  }, machine);
  if (one.running) await machine.on(false);

  const token = await site.announce(node);
  await Deno.writeTextFile(`${dir}/token`, token, { mode: 0o600 });
  await Deno.writeTextFile(`${dir}/bmc.json`, JSON.stringify(credentials), { mode: 0o600 });
  await Deno.writeTextFile(`${dir}/bmc-ca.pem`, ca.caPem);
  const url = `https://${run.cluster.file.nodes[siteNode]!.address}:7152`;
  const clusterCa = await Deno.readTextFile(`${run.cluster.substrate.etcDir(siteNode)}/deployer/tls-ca.crt`);
  const args = [
    ...["--deployer-url", url, "--node", node, "--token-file", `${dir}/token`],
    ...["--ca-cert-url", `${url}/api/v1/ca.crt`, "--ca-sha256", certificateSha256(clusterCa)!],
    ...["--iso", site.prepared.iso.path, "--serve", `${run.cluster.file.network.operatorAddress}:0`],
    ...["--bmc-url", bmc.url, "--bmc-credentials-file", `${dir}/bmc.json`, "--attach-seconds", "5"],
    ...trust === "ca"
      ? ["--bmc-ca-file", `${dir}/bmc-ca.pem`]
      : ["--bmc-fingerprint", new X509Certificate(leaf.certPem).fingerprint256],
    ...["--serial-log", serialFile, "--uc-context", "proof", "--timeout-seconds", String(markerTimeoutSeconds)],
  ];
  const smoke = (command: string) => hardwareSmoke(run, dir, contextFile(top), [command, ...args]);
  const artifacts = `${dir}/hardware-smoke/latest`;
  try {
    await run.check(`${quirks}: preflight finds everything there, and changes nothing`, async () => {
      const { code, said } = await smoke("preflight");
      assert.equal(code, exitCodes.ok, said);
      assert.deepEqual(bmc.bodies, []);
      return `${node}, ${bmc.calls.length} calls, all of them reads or logins`;
    });
    await run.check(`${quirks}: run installs ${node} from the medium to desired-system-active`, async () => {
      const begun = performance.now();
      const { code, said } = await smoke("run");
      assert.equal(code, exitCodes.ok, said);
      const status = parseStatus(await Deno.readTextFile(`${artifacts}/status.env`));
      assert.deepEqual([status["status"], status["attempts"], status["media_ejected"]], ["passed", "1", "true"]);
      const seen = JSON.parse(await Deno.readTextFile(`${artifacts}/markers.json`)) as {
        name: string;
        source: string;
      }[];
      for (const source of ["serial", "deployer"]) {
        const names = seen.filter((marker) => marker.source === source).map(({ name }) => name);
        const steps = names.filter((name) => (markerNames as readonly string[]).includes(name));
        // The run ends with the last marker of either record, before the other was read again.
        assert.deepEqual(steps, markerNames.slice(0, steps.length), source);
        assert.ok(steps.length > 0, `nothing was read from the ${source} record`);
      }
      return `${((performance.now() - begun) / 1000).toFixed(0)} s, ${
        status["iso_bytes_sent"]
      } bytes of the medium fetched by the BMC`;
    });
    await run.check(
      `${quirks}: the deployer observes ${node} with its system, and the machine needed no medium for it`,
      async () => {
        const found = await site.observed(node, SystemState.ACTIVE, "uc-base");
        assert.deepEqual(site.stepsOf(found), [...markerNames]);
        const { missing } = JSON.parse(await Deno.readTextFile(`${artifacts}/capture.json`)) as { missing: string[] };
        assert.deepEqual(missing, []);
        return found.observed!.currentSystem;
      },
    );
    await run.check(`${quirks}: no artifact holds the token or the BMC's password`, async () => {
      let files = 0;
      for await (const { name } of Deno.readDir(artifacts)) {
        const text = await Deno.readTextFile(`${artifacts}/${name}`);
        for (const secret of [token, credentials.password]) assert.ok(!text.includes(secret), `${name} holds a secret`);
        files++;
      }
      return `${files} files`;
    });
  } finally {
    await keep(run, node, artifacts, serialFile, bmc.calls);
  }
}

/** Evidence of one machine beside the lane's result. */
async function keep(
  run: LaneRun,
  node: string,
  artifacts: string,
  serialFile: string,
  calls: readonly string[],
): Promise<void> {
  const into = `${run.artifactsDir}/${node}`;
  await Deno.mkdir(into, { recursive: true });
  await Deno.copyFile(serialFile, `${into}/console.log`);
  await Deno.writeTextFile(`${into}/bmc-calls.txt`, calls.join("\n") + "\n");
  try {
    for await (const { name } of Deno.readDir(artifacts)) {
      await Deno.copyFile(`${artifacts}/${name}`, `${into}/${name}`);
    }
  } catch (error) {
    // A run that did not get as far has left none.
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** The operator's program as the operator starts it. */
async function hardwareSmoke(
  run: LaneRun,
  workRoot: string,
  context: string,
  args: readonly string[],
): Promise<{ code: number; said: string }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", "--frozen", `${workspaceRoot}/test-cluster/hardware/smoke/main.ts`, ...args],
    cwd: workspaceRoot,
    env: { ULTRACLOUD_WORK_ROOT: workRoot, UC_CONFIG: context, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: run.signal,
  }).spawn();
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, said: text(stdout) + text(stderr) };
}
