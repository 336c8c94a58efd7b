import assert from "node:assert/strict";
import { missingPrograms, testUnless, workspaceRoot } from "@ultracloud/testing";
import { findByCommandLine } from "@ultracloud/launch";
import { clusterHome } from "./home.ts";
import { reasonAgainstNamespaces } from "./lan.ts";
import { tool } from "./tools.ts";
import { waitFor } from "./wait.ts";

const reason = reasonAgainstNamespaces();
const reasonAgainstVms = reason ??
  missingPrograms("qemu-system-x86_64", "qemu-img", "mkfs.ext4", "apt-get", "dpkg-deb");

const sharedCache = `${Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${workspaceRoot}/work`}/cache`;

/** A work root of its own: its names and directories are nobody else's. */
async function workRoot() {
  const dir = await Deno.makeTempDir({ prefix: "uc-cluster-" });
  // Node images are kept between runs; everything else of a run is its own.
  await Deno.mkdir(sharedCache, { recursive: true });
  await Deno.symlink(sharedCache, `${dir}/cache`);
  const home = clusterHome((name) => name === "ULTRACLOUD_WORK_ROOT" ? dir : Deno.env.get(name));
  const command = (...args: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        "--quiet",
        `--config=${workspaceRoot}/deno.json`,
        `${workspaceRoot}/test-cluster/main.ts`,
        ...args,
      ],
      env: { ULTRACLOUD_WORK_ROOT: dir, NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await command(...args).output();
    return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
  };
  const namespaces = async () =>
    (await tool(["ip", "netns", "list"])).split("\n").map((line) => line.split(" ")[0]!).filter((name) =>
      name.startsWith(`${home.prefix}-`)
    );
  const end = async () => {
    await run("clean");
    await Deno.remove(dir, { recursive: true });
  };
  return { dir, home, command, run, namespaces, [Symbol.asyncDispose]: end };
}

function absent(path: string): boolean {
  try {
    Deno.statSync(path);
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return true;
    throw error;
  }
}

testUnless("a lane proves the faults of the harness, and leaves its result and nothing else", reason, async () => {
  await using root = await workRoot();
  const { code, text } = await root.run("fresh-harness-check");
  assert.equal(code, 0, text);
  const result = JSON.parse(await Deno.readTextFile(`${root.dir}/fresh-harness-check/latest/result.json`));
  assert.equal(result.success, true);
  assert.equal(result.lane, "fresh-harness-check");
  assert.equal(result.substrate, "netns");
  assert.equal(result.checks.length, 5);
  assert.deepEqual(await root.namespaces(), []);
  assert.ok(absent(root.home.stateDir) && absent(root.home.runDir) && absent(root.home.journalFile));
});

testUnless("a harness killed with -9 leaves a cluster that the next command removes whole", reason, async () => {
  await using root = await workRoot();
  const child = root.command("up", "harness").spawn();
  // Killed while the nodes are being made or started: the namespaces exist, the work goes on.
  await waitFor(
    { timeoutMs: 60_000, what: "nodes", everyMs: 5 },
    async () => (await root.namespaces()).length >= 3 || undefined,
  );
  child.kill("SIGKILL");
  await child.output();
  const { code, text } = await root.run("clean");
  assert.equal(code, 0, text);
  assert.deepEqual(await root.namespaces(), []);
  assert.ok(absent(root.home.stateDir) && absent(root.home.runDir) && absent(root.home.journalFile));
  const mounts = await Deno.readTextFile("/proc/mounts");
  assert.ok(!mounts.includes(root.dir), "a disk is still mounted");
});

testUnless("a failing lane says so with its exit code and its result", reason, async () => {
  await using root = await workRoot();
  // Interrupted at once: the smallest way to fail that every lane has.
  const child = root.command("fresh-harness-check").spawn();
  await waitFor(
    { timeoutMs: 60_000, what: "nodes", everyMs: 5 },
    async () => (await root.namespaces()).length >= 2 || undefined,
  );
  child.kill("SIGTERM");
  const { code, stdout } = await child.output();
  assert.equal(code, 130, new TextDecoder().decode(stdout));
  const result = JSON.parse(await Deno.readTextFile(`${root.dir}/fresh-harness-check/latest/result.json`));
  assert.equal(result.success, false);
  assert.equal(result.error, "Interrupted");
  assert.deepEqual(await root.namespaces(), []);
});

testUnless(
  "a node as a VM boots, takes commands, keeps its disk over a power cut, and goes whole",
  reasonAgainstVms,
  async () => {
    await using root = await workRoot();
    const file = {
      version: 1,
      clusterId: "test",
      profile: "ha-control-plane",
      network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
      nodes: { node01: { role: "gateway", address: "10.77.0.11", member: 1 } },
    };
    await Deno.writeTextFile(`${root.dir}/one.json`, JSON.stringify(file));
    const ok = async (...args: string[]) => {
      const { code, text } = await root.run(...args);
      assert.equal(code, 0, `${args.join(" ")}: ${text}`);
      return text;
    };
    const on = (...argv: string[]) => ok("exec", "node01", "--", ...argv);
    await ok("up", `${root.dir}/one.json`, "--substrate", "qemu");
    assert.match(await on("hostname"), /^node01$/m);
    // A kernel of its own, not this host's.
    assert.notEqual((await on("cat", "/proc/sys/kernel/random/boot_id")).trim(), await bootId());
    assert.match(await on("ip", "-o", "-4", "addr", "show", "dev", "eth0"), /10\.77\.0\.11\/24/);
    await on("sh", "-c", "echo synced >/node/synced && sync && echo lost >/node/lost");
    await ok("kill", "node01");
    const off = await root.run("exec", "node01", "--", "hostname");
    assert.equal(off.code, 1);
    assert.match(off.text, /Cannot reach node01: it has no power/);
    await ok("start", "node01");
    assert.match(await on("cat", "/node/synced"), /^synced$/m);
    // What its kernel held in memory went with the power.
    assert.notEqual((await root.run("exec", "node01", "--", "grep", "lost", "/node/lost")).code, 0);
    assert.match(await ok("logs", "node01", "console"), /ULTRACLOUD_NODE_READY node01[^]*ULTRACLOUD_NODE_READY node01/);
    await ok("clean");
    assert.deepEqual(await root.namespaces(), []);
    assert.deepEqual(findByCommandLine(`${root.dir}/`, "qemu"), []);
    assert.ok(absent(root.home.stateDir) && absent(root.home.runDir) && absent(root.home.journalFile));
  },
);

async function bootId(): Promise<string> {
  return (await Deno.readTextFile("/proc/sys/kernel/random/boot_id")).trim();
}
