import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import type { NicSpec, VmSpec } from "./domain/spec.ts";
import { readStats } from "./stats.ts";
import { takeScreenshot } from "./screenshot.ts";
import { guestAgent, openGuest } from "./testdata/guest_agent.ts";
import { memoryOn } from "./domain/written_pages.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { until } from "./testdata/tiny_image.ts";
import { host, image, withWorkers } from "./testdata/workers.ts";

const mib = 2 ** 20;
const volumeA = "vol_01J0000000000000000000000A";
const volumeB = "vol_01J0000000000000000000000B";
const serialOf = (volumeId: string) => volumeId.slice(-20);
const fails = (code: string) => (error: unknown) => error instanceof Fault && error.code === code;

function specOf(change: Partial<VmSpec> = {}): VmSpec {
  return specFixture({ image: image!.ref, nics: [], userData: guestAgent, ...change });
}

/** `<serial> <bytes>` of each disk as the guest has it. */
const disksSeen = `for d in /sys/block/vd*; do echo "$(cat $d/serial) $(($(cat $d/size) * 512))"; done`;
const deviceOf = (serial: string) => `/dev/$(basename $(dirname $(grep -l ${serial} /sys/block/vd*/serial)))`;

const nic: NicSpec = {
  portId: "port_hot",
  mac: "52:54:00:99:00:01",
  ip: "10.9.1.15",
  binding: {
    kind: "user",
    cidr: "10.9.1.0/24",
    gatewayIp: "10.9.1.1",
    dnsIp: "10.9.1.2",
    restrict: false,
    forwards: [],
  },
};

withWorkers("a running guest sees volumes and NICs come, grow and go, whichever agent asks", async (workers) => {
  let worker = await workers.open("a");
  const { vms } = worker;
  await vms.volumes.create(volumeA, 16 * mib, undefined);
  await vms.volumes.create(volumeB, 16 * mib, undefined);
  let spec = specOf();
  const { pid } = await vms.ensure(spec);
  let guest = await openGuest(vms, spec.vmId);

  const local = { volumeId: volumeA, sizeBytes: 16 * mib, readOnly: false, source: { kind: "local" } } as const;
  const shared = (uri: string, sizeBytes = 16 * mib) => ({
    ...local,
    volumeId: volumeB,
    sizeBytes,
    source: { kind: "nbd", uri } as const,
  });
  const { uri } = await vms.volumes.export(volumeB, 1, false);
  const seen = (wanted: Record<string, number>) =>
    until("the disks in the guest", 60_000, async () => {
      const lines = (await guest.run(disksSeen)).split("\n").filter((line) => !/^(root|seed) /.test(line));
      const found = Object.fromEntries(lines.map((line) => line.split(" ")).map(([serial, n]) => [serial, Number(n)]));
      return JSON.stringify(Object.entries(found).sort()) === JSON.stringify(Object.entries(wanted).sort());
    });

  spec = { ...spec, generation: 2, nics: [nic], volumes: [local, shared(uri)] };
  const plugged = await vms.ensure(spec);
  assert.equal(plugged.pid, pid, "the guest runs on");
  assert.deepEqual(Object.keys(plugged.layout!.ports).sort(), ["port_hot", "root", volumeA, volumeB]);
  await seen({ [serialOf(volumeA)]: 16 * mib, [serialOf(volumeB)]: 16 * mib });
  await until("the NIC in the guest", 60_000, async () => /52:54:00:99:00:01/.test(await guest.run("ip -o link")));
  const wrote = await guest.run(
    `for d in ${deviceOf(serialOf(volumeA))} ${deviceOf(serialOf(volumeB))}; do ` +
      `dd if=/dev/urandom of=$d bs=64k count=16 2>/dev/null; sync; dd if=$d bs=64k count=16 2>/dev/null | sha256sum; done`,
  );
  await assert.rejects(vms.volumes.export(volumeA, 1, false), fails("volume_in_use"));
  await assert.rejects(vms.volumes.remove(volumeB), fails("volume_in_use"));
  await assert.rejects(
    vms.ensure(specOf({ vmId: "vm_01J0000000000000000000000B", volumes: [local] })),
    fails("volume_in_use"),
  );

  // Another agent finds them plugged and exported, and grows both while the guest runs.
  worker = await worker.reopen();
  guest = guest.on(worker.vms);
  assert.deepEqual(worker.vms.get(spec.vmId).layout, plugged.layout);
  await worker.vms.volumes.grow(volumeA, 32 * mib);
  await worker.vms.volumes.grow(volumeB, 32 * mib);
  await seen({ [serialOf(volumeA)]: 32 * mib, [serialOf(volumeB)]: 16 * mib });
  spec = { ...spec, generation: 3, volumes: [{ ...local, sizeBytes: 48 * mib }, shared(uri, 32 * mib)] };
  await worker.vms.ensure(spec);
  await seen({ [serialOf(volumeA)]: 48 * mib, [serialOf(volumeB)]: 32 * mib });
  assert.equal(
    await guest.run(
      `for d in ${deviceOf(serialOf(volumeA))} ${
        deviceOf(serialOf(volumeB))
      }; do dd if=$d bs=64k count=16 2>/dev/null | sha256sum; done`,
    ),
    wrote,
    "what was written is there",
  );
  await assert.rejects(worker.vms.volumes.grow(volumeA, 16 * mib), fails("volume_larger"));

  const stats = await readStats(worker.vms.machine(spec.vmId));
  assert.ok(stats.memoryResidentBytes > 16 * mib && stats.memoryBytes === memoryOn(host, 128 * mib));
  assert.ok(stats.disks.find((disk) => disk.device === volumeA)!.writeBytes >= mib);
  assert.deepEqual(stats.nics.map(({ portId, counted }) => [portId, counted]), [["port_hot", false]]);
  const png = await takeScreenshot(worker.vms.machine(spec.vmId));
  assert.deepEqual([...png.subarray(0, 8)], [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

  // The writer of a lower epoch loses its export, and may not have it back.
  await worker.vms.volumes.export(volumeB, 2, false);
  await assert.rejects(worker.vms.volumes.export(volumeB, 1, false), fails("stale_writer_epoch"));
  await assert.rejects(
    guest.run(`dd if=/dev/zero of=${deviceOf(serialOf(volumeB))} bs=4k count=1 conv=fsync`),
    /error/,
  );

  spec = { ...spec, generation: 4, nics: [], volumes: [] };
  const bare = await worker.vms.ensure(spec);
  assert.deepEqual(Object.keys(bare.layout!.ports), ["root"]);
  await seen({});
  assert.doesNotMatch(await guest.run("ip -o link"), /52:54:00:99/);
  assert.equal(worker.vms.get(spec.vmId).pid, pid);

  await worker.vms.volumes.unexport(volumeB, 0);
  await worker.vms.volumes.remove(volumeB);
  await worker.vms.remove(spec.vmId);
  await worker.vms.volumes.remove(volumeA);
  assert.deepEqual([...Deno.readDirSync(`${worker.dir}/state/volumes`)], []);
  assert.deepEqual([...Deno.readDirSync(`${worker.dir}/run`)], []);
});
