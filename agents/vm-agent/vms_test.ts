import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import { noopLogger, Registry } from "@ultracloud/observe";
import type { VmSpec } from "./domain/spec.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { freePort, type TinyImage, tinyImage, until } from "./testdata/tiny_image.ts";
import { qemuVersion } from "./probe.ts";
import { HostUser } from "./host_user.ts";
import { WorkerLease } from "./lease.ts";
import { Vms } from "./vms.ts";

const image = await tinyImage();
const version = image ? await qemuVersion() : { major: 0, minor: 0 };

interface Bench {
  readonly dir: string;
  readonly spec: VmSpec;
  readonly port: number;
  readonly image: TinyImage;
  /** Agents by restart: each sees what the one before left, which is to be disposed of first. */
  open(): Promise<Vms>;
}

function withVms(name: string, body: (bench: Bench) => Promise<void>): void {
  Deno.test({
    name,
    ignore: image === undefined,
    async fn() {
      const dir = await Deno.makeTempDir({ prefix: "uva" });
      const port = freePort();
      const nic = specFixture().nics[0]!;
      assert.ok(nic.binding.kind === "user");
      const forwards = [{ protocol: "tcp" as const, hostIp: "127.0.0.1", hostPort: port, guestPort: 80 }];
      const spec = specFixture({ image: image!.ref, nics: [{ ...nic, binding: { ...nic.binding, forwards } }] });
      const opened: Vms[] = [];
      const open = async () => {
        const vms = new Vms({
          stateDir: `${dir}/state`,
          runDir: `${dir}/run`,
          host: { accelerator: "tcg", qemuMajor: version.major, qemuMinor: version.minor },
          consoleBytesMax: 64 * 1024,
          imageCacheBytesMax: 2 ** 30,
          tickMs: 100,
        }, {
          clock: systemClock,
          log: noopLogger,
          registry: new Registry(),
          user: new HostUser({ uidFirst: undefined }),
          lease: new WorkerLease({ stateDir: `${dir}/state` }, { clock: systemClock }),
          readImage: (_, offset) => chunks(image!.bytes.subarray(offset)),
          signal: new AbortController().signal,
        });
        opened.push(vms);
        await vms.open();
        return vms;
      };
      try {
        await body({ dir, spec, port, image: image!, open });
      } finally {
        const pids = opened.flatMap((vms) => vms.list()).map((vm) => vm.pid).filter((pid) => pid > 0);
        for (const vm of opened.at(-1)?.list() ?? []) await opened.at(-1)?.remove(vm.vmId);
        for (const vms of opened) await vms[Symbol.asyncDispose]();
        killLeftovers(`${dir}/run`);
        // This process is the parent: until it has waited for them, they count as its open children.
        await until("every QEMU to be waited for", 10_000, () => Promise.resolve(!pids.some(alive)));
        await systemClock.sleep(0);
        await Deno.remove(dir, { recursive: true });
      }
    },
  });
}

async function* chunks(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 1 << 20) yield await Promise.resolve(bytes.subarray(at, at + (1 << 20)));
}

const page = (port: number) =>
  until("the guest's page", 60_000, async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/status.json`, { signal: AbortSignal.timeout(2_000) });
    return await answer.json() as { hostname: string; instance: string; boots: number };
  });

withVms("a VM boots, answers HTTP, survives its agent, powers off by ACPI and leaves nothing", async (bench) => {
  const { spec, port } = bench;
  let vms = await bench.open();
  const first = await vms.ensure(spec);
  assert.equal(first.state, "running");
  const again = await vms.ensure(spec);
  assert.deepEqual([again.state, again.pid], ["running", first.pid], "the same spec again is no change");
  assert.deepEqual(await page(port), { hostname: "web", instance: spec.vmId, address: "10.9.0.15", boots: 1 });
  const log = await vms.readConsole(spec.vmId, {
    offset: 0,
    limit: 65_536,
    waitMs: 1_000,
    signal: AbortSignal.timeout(5_000),
  });
  assert.match(new TextDecoder().decode(log.data), /ULTRACLOUD_GUEST_READY hostname=web ip=10\.9\.0\.15/);

  await vms[Symbol.asyncDispose]();
  vms = await bench.open();
  const adopted = vms.get(spec.vmId);
  assert.deepEqual([adopted.state, adopted.pid], ["running", first.pid]);
  assert.equal((await page(port)).boots, 1, "the guest was not touched");

  await assert.rejects(
    vms.ensure({ ...spec, generation: 0 }),
    (error) => error instanceof Fault && error.code === "stale_generation",
  );
  const rebooted = await vms.reboot(spec.vmId);
  assert.equal(rebooted.pid, first.pid);
  await until("the second boot", 60_000, async () => (await page(port)).boots === 2);

  const stopped = await vms.stop(spec.vmId, { force: false, graceMs: 30_000 });
  assert.deepEqual([stopped.state, stopped.reason], ["stopped", ""]);
  const end = await vms.readConsole(spec.vmId, {
    offset: -2_000,
    limit: 2_000,
    waitMs: 0,
    signal: AbortSignal.timeout(5_000),
  });
  assert.match(new TextDecoder().decode(end.data), /ULTRACLOUD_GUEST_STOPPING/, "ACPI, not the plug");

  await vms.ensure(spec);
  await until("the third boot", 60_000, async () => (await page(port)).boots === 3);
  await vms.remove(spec.vmId);
  assert.deepEqual(vms.list(), []);
  assert.deepEqual([...Deno.readDirSync(`${bench.dir}/state/vms`)], []);
  assert.deepEqual([...Deno.readDirSync(`${bench.dir}/run`)], []);
  await vms.remove(spec.vmId);
});

withVms("a QEMU that dies is reported failed, watched or not, and starts again", async (bench) => {
  const { spec } = bench;
  let vms = await bench.open();
  const kill = async (pid: number) => {
    Deno.kill(pid, "SIGKILL");
    await until("the end of QEMU", 10_000, () => Promise.resolve(!alive(pid)));
  };
  await kill((await vms.ensure(spec)).pid);
  const failed = await until("failed", 10_000, () => {
    const view = vms.get(spec.vmId);
    return Promise.resolve(view.state === "failed" && view);
  });
  assert.equal(failed.reason, "QEMU ended with SIGKILL");

  const { pid } = await vms.ensure(spec);
  await vms[Symbol.asyncDispose]();
  await kill(pid);
  vms = await bench.open();
  assert.deepEqual(
    [vms.get(spec.vmId).state, vms.get(spec.vmId).reason],
    ["failed", "QEMU ended while no agent watched it"],
  );

  const running = await vms.ensure(spec);
  await vms[Symbol.asyncDispose]();
  vms = await bench.open();
  assert.equal(vms.get(spec.vmId).pid, running.pid);
  await kill(running.pid);
  const adopted = await until("failed", 10_000, () => {
    const view = vms.get(spec.vmId);
    return Promise.resolve(view.state === "failed" && view);
  });
  assert.equal(adopted.reason, "QEMU ended unexpectedly");
});

withVms("a guest that powers itself off is stopped, not failed, whether an agent watches or not", async (bench) => {
  const spec = { ...bench.spec, userData: "#!/bin/sh\nexec /sbin/uc-poweroff\n" };
  let vms = await bench.open();
  await vms.ensure(spec);
  await vms[Symbol.asyncDispose]();
  const log = `${bench.dir}/state/vms/${spec.vmId}/console.log`;
  await until("the power-off", 60_000, async () => /Power down/.test(await Deno.readTextFile(log)));
  vms = await bench.open();
  const stopped = () =>
    until("stopped", 60_000, () => {
      const view = vms.get(spec.vmId);
      return Promise.resolve(view.state === "stopped" && view);
    });
  assert.equal((await stopped()).reason, "the guest powered off");
  assert.equal((await vms.ensure(spec)).state, "running");
  assert.equal((await stopped()).reason, "the guest powered off");
});

withVms("a QEMU that does not answer is unknown, is left alone, and is taken over once it answers", async (bench) => {
  const { vmId } = bench.spec;
  let vms = await bench.open();
  const { pid } = await vms.ensure(bench.spec);
  await vms[Symbol.asyncDispose]();
  Deno.kill(pid, "SIGSTOP");
  try {
    vms = await bench.open();
    assert.equal(vms.get(vmId).state, "unknown");
    await assert.rejects(
      vms.stop(vmId, { force: true, graceMs: 0 }),
      (error) => error instanceof Fault && error.code === "qemu_unresponsive",
    );
  } finally {
    Deno.kill(pid, "SIGCONT");
  }
  await until("running", 20_000, () => Promise.resolve(vms.get(vmId).state === "running"));
  assert.equal(vms.get(vmId).pid, pid);
});

withVms("a start that QEMU refuses says why and holds no slot", async (bench) => {
  const vms = await bench.open();
  using _busy = Deno.listen({ hostname: "127.0.0.1", port: bench.port });
  await assert.rejects(
    vms.ensure(bench.spec),
    (error) => error instanceof Fault && error.code === "qemu_failed" && /forward/.test(error.message),
  );
  assert.equal(vms.get(bench.spec.vmId).state, "failed");
  assert.deepEqual([...Deno.readDirSync(`${bench.dir}/run`)], []);
});

withVms("an image whose content lies is refused, and one cut off is resumed", async (bench) => {
  const vms = await bench.open();
  const lying = specFixture({ image: { ...bench.image.ref, sha256: "0".repeat(64) } });
  await assert.rejects(vms.ensure(lying), (error) => error instanceof Fault && error.code === "image_digest_mismatch");
  assert.deepEqual([...Deno.readDirSync(`${bench.dir}/state/images`)], []);
  // What an agent that died had fetched so far.
  await Deno.writeFile(
    `${bench.dir}/state/images/${bench.image.ref.sha256}.part`,
    bench.image.bytes.subarray(0, 5_000_000),
  );
  const view = await vms.ensure({ ...bench.spec, generation: 2 });
  assert.equal(view.state, "running");
});

withVms("a QEMU without a record is ended at start", async (bench) => {
  const vms = await bench.open();
  const { pid } = await vms.ensure(bench.spec);
  await vms[Symbol.asyncDispose]();
  await Deno.remove(`${bench.dir}/state/vms`, { recursive: true });
  const next = await bench.open();
  assert.deepEqual(next.list(), []);
  await until("its end", 10_000, () => Promise.resolve(!alive(pid)));
});

withVms("a worker refuses unknown VMs and malformed ids", async (bench) => {
  const vms = await bench.open();
  const { vmId } = bench.spec;
  assert.throws(() => vms.get(vmId), (error) => error instanceof Fault && error.code === "vm_not_found");
  await assert.rejects(vms.reboot(vmId), (error) => error instanceof Fault && error.code === "vm_not_found");
  await assert.rejects(vms.remove("../.."), (error) => error instanceof Fault && error.code === "invalid_id");
});

/** A failing test must not leave its guests behind. */
function killLeftovers(runDir: string): void {
  for (const slot of Deno.readDirSync(runDir)) {
    try {
      Deno.kill(Number.parseInt(Deno.readTextFileSync(`${runDir}/${slot.name}/qemu.pid`), 10), "SIGKILL");
    } catch {
      // It has ended.
    }
  }
}

/** False for what has ended and was waited for. */
function alive(pid: number): boolean {
  try {
    Deno.statSync(`/proc/${pid}`);
    return true;
  } catch {
    return false;
  }
}
