import assert from "node:assert/strict";
import { examineHost, exitCodes, namespaceOf, portsOf } from "@ultracloud/cli";
import { findByCommandLine, portTaken, signalProcess } from "@ultracloud/launch";
import { testUnless, workspaceRoot } from "@ultracloud/testing";

const { whyNoOvn } = await examineHost({ workRoot: "/tmp", ports: [] });
const noOvn = whyNoOvn === "" ? undefined : whyNoOvn;

/** A work root of its own and ports nobody uses: a quickstart beside others. */
async function place(): Promise<
  AsyncDisposable & { readonly root: string; readonly offset: number; uc(...args: string[]): Deno.ChildProcess }
> {
  const root = await Deno.makeTempDir({ prefix: "uc-qs-" });
  let offset: number;
  // Below the host ports that prismnet gives to guests.
  do offset = 1_000 + Math.floor(Math.random() * 10_000); while (
    Object.values(portsOf(offset)).some((port) => portTaken("127.0.0.1", port))
  );
  const uc = (...args: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-q", "--frozen", "-A", `${workspaceRoot}/cli/main.ts`, ...args],
      env: { ULTRACLOUD_WORK_ROOT: root },
      cwd: workspaceRoot,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  return {
    root,
    offset,
    uc,
    async [Symbol.asyncDispose]() {
      for (const left of findByCommandLine(`${root}/`)) signalProcess(left, "SIGKILL");
      await Deno.remove(root, { recursive: true });
    },
  };
}

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function end(child: Deno.ChildProcess): Promise<Ended> {
  const { code, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

/** Processes, ports and short-lived files of a work root. */
async function leftovers(root: string, offset: number): Promise<string[]> {
  const left = findByCommandLine(`${root}/`).map(({ pid }) => `process ${pid}`);
  for (const [name, port] of Object.entries(portsOf(offset))) {
    if (portTaken("127.0.0.1", port)) left.push(`port of ${name}`);
  }
  for (const path of [`${root}/quickstart/data`, `${root}/quickstart/state.json`]) {
    if (await Deno.stat(path).then(() => true, () => false)) left.push(path);
  }
  const namespace = await namespaceOf({ root: `${root}/quickstart` });
  if (await Deno.lstat(`/run/netns/${namespace}`).then(() => true, () => false)) left.push(`namespace ${namespace}`);
  return left;
}

async function result(root: string): Promise<Record<string, unknown>> {
  return JSON.parse(await Deno.readTextFile(`${root}/quickstart/latest/result.json`));
}

// Moments in the start, while components come up, and while the guest boots.
for (const afterMs of [300, 2_500, 7_000]) {
  Deno.test(`quickstart stopped by Ctrl-C after ${afterMs} ms leaves nothing behind`, async () => {
    await using at = await place();
    const child = at.uc("quickstart", "--port-offset", String(at.offset));
    const timer = setTimeout(() => child.kill("SIGINT"), afterMs);
    const { code, err } = await end(child);
    clearTimeout(timer);
    // A fast machine may be done before the third moment: then it ends as it should.
    assert.ok(code === exitCodes.interrupted || code === exitCodes.ok, `exit ${code}\n${err.slice(-1_500)}`);
    assert.deepEqual(await leftovers(at.root, at.offset), []);
  });
}

Deno.test("quickstart --keep without root's network serves, refuses a second one, survives a kill -9 of everything, and goes down whole", async () => {
  await using at = await place();
  const offset = String(at.offset);
  const kept = await end(at.uc("quickstart", "--keep", "--engine", "user", "--port-offset", offset));
  assert.equal(kept.code, exitCodes.ok, kept.err);
  const said = await result(at.root);
  assert.equal(said.success, true);
  assert.equal((said.network as { engine: string }).engine, "user");
  assert.match(kept.out, /network engine user: east west is not enforced/);
  assert.match(kept.err, /uc quickstart down/);

  const status = await end(at.uc("status", "-o", "json"));
  assert.equal(status.code, exitCodes.ok, status.err);
  assert.deepEqual(JSON.parse(status.out).map((s: { health: string }) => s.health), Array(6).fill("ready"));
  const vms = await end(at.uc("vm", "list", "-o", "name"));
  assert.equal(vms.out, "hello\n", vms.err);

  const second = await end(at.uc("quickstart", "--port-offset", offset));
  assert.equal(second.code, exitCodes.conflict, second.err);
  assert.match(second.err, /error\[quickstart_kept\]: Cannot start a quickstart beside the one kept/);
  assert.equal((await end(at.uc("status"))).code, exitCodes.ok, "the kept one goes on");
  assert.equal((await result(at.root)).kept, true, "`latest` still tells of it");

  const all = findByCommandLine(`${at.root}/`);
  assert.ok(all.length >= 7, `${all.length} processes: six components and a guest`);
  for (const process of all) signalProcess(process, "SIGKILL");
  const again = await end(at.uc("quickstart", "--keep", "--engine", "user", "--port-offset", offset));
  assert.equal(again.code, exitCodes.ok, again.err);

  const down = await end(at.uc("quickstart", "down"));
  assert.equal(down.code, exitCodes.ok, down.err);
  assert.deepEqual(await leftovers(at.root, at.offset), []);
});

testUnless(
  "quickstart on OVN proves DHCP, NAT, floating IP and a closed port, and leaves nothing, killed or not",
  noOvn,
  async () => {
    await using at = await place();
    const offset = String(at.offset);
    const run = at.uc("quickstart", "--engine", "ovn", "--port-offset", offset);
    setTimeout(() => run.kill("SIGKILL"), 5_000);
    await end(run);
    assert.notDeepEqual(await leftovers(at.root, at.offset), [], "a killed launcher leaves what it started");

    const kept = await end(at.uc("quickstart", "--keep", "--port-offset", offset));
    assert.equal(kept.code, exitCodes.ok, kept.err);
    const seen = await result(at.root) as {
      success: boolean;
      network: { engine: string; features: { support: string }[] };
      outside: { natIp: string; floatingIp: string };
      vm: { ip: string; marker: string; url: string };
      forbiddenPort: string;
    };
    assert.equal(seen.success, true);
    assert.equal(seen.network.engine, "ovn", "root and the packages are there, so OVN is what `auto` means");
    assert.ok(seen.network.features.every(({ support }) => support !== "not-enforced"));
    assert.match(seen.vm.marker, new RegExp(`ip=${seen.vm.ip} `));
    assert.match(seen.forbiddenPort, /port 81, where the guest serves too, is closed; it was open \d+ ms after a rule/);
    // From the host, through the gate to the floating IP.
    assert.match(await (await fetch(seen.vm.url)).text(), /<h1>hello<\/h1>/);
    const status = await end(at.uc("status", "-o", "name"));
    assert.match(status.out, /^net-agent$/m, status.err);

    const down = await end(at.uc("quickstart", "down"));
    assert.equal(down.code, exitCodes.ok, down.err);
    assert.deepEqual(await leftovers(at.root, at.offset), []);
  },
);
