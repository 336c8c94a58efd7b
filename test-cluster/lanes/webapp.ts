import assert from "node:assert/strict";
import { NodeService, NodeState, type Vm, VmState } from "@ultracloud/proto/plasmavmc/v1";
import type { Cluster } from "../harness/cluster.ts";
import { forward, openWay } from "../harness/forward.ts";
import type { Lane } from "../harness/lane.ts";
import { Tenant } from "../harness/tenant.ts";
import { waitFor } from "../harness/wait.ts";

const name = "webapp";
export const page = "/cgi-bin/notes";
/** Answers with the id of the guest's boot, which a guest that moved keeps and one that was started again does not. */
const bootPage = "/cgi-bin/boot";
const userDataDone = /ULTRACLOUD_USER_DATA_DONE code=0/;

/** A page that keeps notes on the VM's own disk; one is kept once the answer is given. */
const userData = String.raw`#!/bin/sh
mkdir -p /www/cgi-bin
cat >/www/cgi-bin/notes <<'PAGE'
#!/bin/sh
if [ "$REQUEST_METHOD" = POST ]; then
  head -c "$CONTENT_LENGTH" >>/data/notes
  echo >>/data/notes
  sync
fi
printf 'Content-Type: text/plain\r\n\r\n'
cat /data/notes 2>/dev/null
exit 0
PAGE
cat >/www/cgi-bin/boot <<'PAGE'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
cat /proc/sys/kernel/random/boot_id
exit 0
PAGE
chmod 755 /www/cgi-bin/notes /www/cgi-bin/boot
`;

/** A new tenant with the application on some worker; resolves when it serves. */
export async function startWebapp(run: {
  readonly cluster: Cluster;
  readonly guestImage: { readonly path: string; readonly sha256: string };
  readonly signal: AbortSignal;
}): Promise<{ readonly tenant: Tenant; readonly vm: Vm }> {
  const tenant = new Tenant(run.cluster, `webapp-${crypto.randomUUID().slice(0, 8)}`, run.signal);
  await tenant.setUp(run.guestImage);
  await tenant.createVm(name, { flavor: "small", userData });
  await tenant.waitConsole(name, userDataDone);
  return { tenant, vm: await tenant.vm(name) };
}

/** Hosting a tenant's web application. */
export const webapp: Lane = {
  name: "demo-vm-webapp",
  summary:
    "a tenant VM serves a web application whose state survives restart and migration of the VM, loss of its worker",
  profile: "ha-control-plane",
  guestImage: true,
  async run(run) {
    const { cluster } = run;
    let tenant!: Tenant;
    const notes: string[] = [];
    const read = async () =>
      (await tenant.fetchPage(await tenant.vm(name), page)).trim().split("\n").filter((line) => line !== "");
    const write = async (note: string) => {
      await tenant.fetchPage(await tenant.vm(name), page, { body: note });
      notes.push(note);
    };
    const kept = async () => {
      assert.deepEqual(await read(), notes);
      return `${notes.length} notes`;
    };

    await run.check("a VM with user data serves the application", async () => {
      ({ tenant } = await startWebapp(run));
      assert.deepEqual(await read(), []);
      for (const note of ["first", "second", "third"]) await write(note);
      return await kept();
    });
    await run.check("it is reached from outside of the cluster's network", async () => {
      const vm = await tenant.vm(name);
      const end = new AbortController();
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const open = () => openWay(cluster.substrate, vm.node, tenant.endpointOf(vm));
      const forwarding = forward(listener, open, end.signal);
      try {
        const url = `http://127.0.0.1:${listener.addr.port}${page}`;
        const response = await fetch(url, { headers: { connection: "close" }, signal: run.signal });
        assert.deepEqual((await response.text()).trim().split("\n"), notes);
      } finally {
        end.abort();
        await forwarding;
      }
      return `${page} over a forwarded port`;
    });
    await run.check("its state survives a restart of the VM", async () => {
      assert.equal((await tenant.stop(name)).state, VmState.STOPPED);
      await tenant.start(name);
      await tenant.waitConsole(name, /ULTRACLOUD_GUEST_READY .*boots=2/);
      await write("after restart");
      return await kept();
    });
    await run.check("its state survives a migration to the other worker", async () => {
      const before = await tenant.vm(name);
      const boot = await tenant.fetchPage(before, bootPage);
      const after = await tenant.migrate(name);
      assert.notEqual(after.node, before.node);
      assert.equal(after.state, VmState.RUNNING);
      assert.equal(await tenant.fetchPage(after, bootPage), boot, "the guest was started anew");
      await write("after migration");
      const { downtimeMs, totalMs } = after.migration!;
      run.facts.migrationDowntimeMs = Number(downtimeMs);
      run.facts.migrationTotalMs = Number(totalMs);
      return `${await kept()}; ${before.node} to ${after.node}, ${downtimeMs} ms down, ${totalMs} ms in all`;
    });
    await run.check("it serves on while its agent is killed and comes back", async () => {
      const worker = (await tenant.vm(name)).node;
      await cluster.kill(worker, "vm-agent");
      await write("without agent");
      await cluster.start(worker, "vm-agent");
      await cluster.waitReady(worker, "vm-agent", run.signal);
      return await kept();
    });
    await run.check("its state survives the loss of the worker", async () => {
      const worker = (await tenant.vm(name)).node;
      await cluster.substrate.powerOff(worker);
      await cluster.substrate.powerOn(worker);
      await cluster.startAll({ nodes: [worker], signal: run.signal });
      const nodes = cluster.clients.of(NodeService, "plasmavmc");
      const what = `${worker} and its VM to be known again`;
      await waitFor({ timeoutMs: 60_000, what, everyMs: 200, signal: run.signal }, async () => {
        const { state } = await nodes.getNode({ name: worker });
        const vm = await tenant.vm(name);
        return state === NodeState.READY && (vm.state === VmState.FAILED || vm.state === VmState.STOPPED) || undefined;
      });
      await tenant.start(name);
      await tenant.waitConsole(name, /ULTRACLOUD_GUEST_READY .*boots=3/);
      await write("after worker loss");
      return await kept();
    });
    await run.evidence("notes.json", notes);
    run.skip("state in lightningstor", "not built yet");
    run.step("delete the VM");
    await tenant.delete(name);
  },
};
