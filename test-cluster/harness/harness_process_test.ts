import assert from "node:assert/strict";
import { testUnless, workspaceRoot } from "@ultracloud/testing";
import { clusterHome } from "./home.ts";
import { reasonAgainstNamespaces } from "./lan.ts";
import { tool } from "./tools.ts";
import { waitFor } from "./wait.ts";

const reason = reasonAgainstNamespaces();

/** A work root of its own: its names and directories are nobody else's. */
async function workRoot() {
  const dir = await Deno.makeTempDir({ prefix: "uc-cluster-" });
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
