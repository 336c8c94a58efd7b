import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import fc from "fast-check";
import { specFixture } from "../testdata/spec_fixture.ts";
import { blockNode, nodeOf, spareNodeOf } from "./block.ts";
import { hotPlugPorts, microvmPorts, portOfBus } from "./hardware.ts";
import { placed } from "./layout.ts";
import { checkEndpoints, noProgress, percentOf } from "./migration.ts";
import { forwardChanges } from "./nics.ts";
import { checkSpec, type Forward, type NicSpec } from "./spec.ts";
import { localVolumes, needsLease, runnable, union } from "./spec_parts.ts";
import { checkId, checkSize, nbdTarget, nbdUri, type VolumeSpec } from "./volume_spec.ts";

const mib = 2 ** 20;
const fieldIs = (field: string) => (error: unknown) => error instanceof Fault && error.detail.field === field;
const volume = (letter: string, change: Partial<VolumeSpec> = {}): VolumeSpec => ({
  volumeId: `vol_01J0000000000000000000000${letter}`,
  sizeBytes: 8 * mib,
  readOnly: false,
  source: { kind: "local" },
  ...change,
});
const nbd = (uri: string) => ({ source: { kind: "nbd", uri } as const });

Deno.test("nbdTarget() takes what ExportVolume answers and nothing that would reach further", () => {
  assert.deepEqual(nbdTarget(nbdUri("/run/vol-00/nbd.sock", "vol_A.7"), "x"), {
    server: { type: "unix", path: "/run/vol-00/nbd.sock" },
    export: "vol_A.7",
  });
  assert.deepEqual(nbdTarget("nbd://10.77.0.12:10809/vol", "x").server, {
    type: "inet",
    host: "10.77.0.12",
    port: "10809",
  });
  const bad = [
    "/etc/passwd",
    "file:///etc/passwd",
    "json:{}",
    "nbd+unix:///vol?socket=relative",
    "nbd+unix:///vol?socket=/a/../../etc/x",
    "nbd+unix:///vol,x=y?socket=/a",
    `nbd+unix:///vol?socket=/${"a".repeat(200)}`,
    "nbd://host:99999999/x",
    "nbd://host:1/../x",
    "exec:touch",
  ];
  for (const uri of bad) assert.throws(() => nbdTarget(uri, "spec.nbd_uri"), fieldIs("spec.nbd_uri"), uri);
});

Deno.test("checkSpec() refuses volumes that are named twice, shaped wrongly or too many", () => {
  const root = { rootVolume: volume("A") };
  assert.ok(checkSpec(specFixture({ ...root, volumes: [volume("B")] })));
  const bad: [Parameters<typeof specFixture>[0], string][] = [
    [{ volumes: [volume("B"), volume("B")] }, "spec.volumes"],
    [{ ...root, volumes: [volume("A")] }, "spec.volumes"],
    [{ volumes: [volume("B", { sizeBytes: 1 })] }, "spec.volumes[0].size_bytes"],
    [{ volumes: [volume("B", { volumeId: "vol_../x" })] }, "spec.volumes[0].volume_id"],
    [{ volumes: [volume("B", nbd("exec:x"))] }, "spec.volumes[0].nbd_uri"],
    [{ rootVolume: volume("A", { readOnly: true }) }, "spec.root_volume.read_only"],
    [{ volumes: [..."ABCDEFGHJKMNPQRS"].map((letter) => volume(letter)) }, "spec.volumes"],
    [{ writerEpoch: -1 }, "spec.writer_epoch"],
    [{ rootEpoch: 0.5 }, "spec.root_epoch"],
    [{ nics: [...specFixture().nics, ...specFixture().nics] }, "spec.nics"],
  ];
  for (const [change, field] of bad) assert.throws(() => checkSpec(specFixture(change)), fieldIs(field), field);
  assert.throws(() => checkId("../x", "volume_id"), fieldIs("volume_id"));
  assert.throws(() => checkSize(0, "size_bytes"), fieldIs("size_bytes"));
});

Deno.test("portOfBus() knows the places of either machine and nothing else", () => {
  assert.equal(portOfBus("/machine/peripheral/rp7/rp7"), 7);
  assert.equal(portOfBus("/machine/unattached/device[9]/virtio-mmio-bus.3"), 3);
  assert.equal(portOfBus("/machine/q35/pcihost/pcie.0"), undefined);
});

Deno.test("placed() gives each device a port of its own and leaves those that have one", () => {
  const device = fc.stringMatching(/^[a-z]{1,4}$/);
  fc.assert(
    fc.property(fc.uniqueArray(device, { maxLength: 12 }), fc.uniqueArray(device, { maxLength: 12 }), (a, b) => {
      const first = placed("pc-q35-7.2", {}, a);
      const second = placed("pc-q35-7.2", first, b);
      for (const one of a) assert.equal(second[one], first[one]);
      const ports = Object.values(second);
      assert.equal(new Set(ports).size, ports.length);
      assert.ok(ports.every((port) => port >= 0 && port < hotPlugPorts));
    }),
  );
  const many = Array.from({ length: hotPlugPorts + 1 }, (_, i) => `d${i}`);
  for (const [machine, most] of [["pc-q35-7.2", hotPlugPorts], ["microvm", microvmPorts]] as const) {
    const full = (error: unknown) => error instanceof Fault && error.code === "no_hot_plug_port";
    assert.throws(() => placed(machine, {}, many.slice(0, most + 1)), full);
    assert.equal(Object.keys(placed(machine, {}, many.slice(0, most))).length, most);
  }
});

Deno.test("block nodes are named within QEMU's 31 characters and name their format", () => {
  const { volumeId } = volume("A");
  assert.ok(nodeOf(volumeId).length <= 31 && nodeOf(volumeId) !== spareNodeOf(volumeId));
  const shown = JSON.stringify(
    blockNode({ device: "root", source: { kind: "file", path: "/d" }, sizeBytes: 1, readOnly: true }),
  );
  assert.match(shown, /"driver":"qcow2".*"read-only":true/);
});

Deno.test("checkEndpoints() lets QEMU connect to sockets only, and wants a place for every copied disk", () => {
  const mirrors = [{ device: "root", uri: nbdUri("/run/nbd.sock", "mirror-root") }];
  checkEndpoints({ stateUri: "unix:/run/state.sock", mirrors }, "mirror", ["root"]);
  const psk = "0123456789abcdef".repeat(4);
  checkEndpoints({ stateUri: "tcp:10.77.0.12:7300", mirrors: [], psk }, "shared", []);
  const open = [
    { stateUri: "tcp:10.77.0.12:7300", mirrors: [] },
    { stateUri: "tcp:10.77.0.12:7300", mirrors: [], psk: psk.slice(1) },
    { stateUri: "unix:/run/state.sock", mirrors: [{ device: "root", uri: "nbd://10.77.0.12:7301/mirror-root" }] },
  ];
  for (const endpoints of open) assert.throws(() => checkEndpoints(endpoints, "mirror", []), fieldIs("endpoints.psk"));
  for (const stateUri of ["exec:touch /tmp/x", "fd:3", "unix:relative", "unix:/a/../b", "tcp:host", ""]) {
    assert.throws(() => checkEndpoints({ stateUri, mirrors }, "mirror", []), fieldIs("endpoints.state_uri"), stateUri);
  }
  const state = { stateUri: "unix:/run/state.sock" };
  assert.throws(() => checkEndpoints({ ...state, mirrors: [] }, "mirror", ["root"]), fieldIs("endpoints.mirrors"));
  assert.throws(
    () => checkEndpoints({ ...state, mirrors }, "shared", ["root"]),
    (error) => error instanceof Fault && error.code === "storage_not_shared",
  );
});

Deno.test("forwardChanges() changes what leads to a guest, and leaves the rest to a new plug", () => {
  const nic = (hostPorts: readonly number[], change: Partial<NicSpec> = {}): NicSpec => {
    const forwards = hostPorts.map((hostPort): Forward => ({
      protocol: "tcp",
      hostIp: "127.0.0.1",
      hostPort,
      guestPort: 80,
    }));
    const binding = { cidr: "10.9.0.0/24", gatewayIp: "10.9.0.1", dnsIp: "", restrict: true, forwards };
    return {
      portId: "port_1",
      mac: "52:54:00:00:00:01",
      ip: "10.9.0.5",
      binding: { kind: "user", ...binding },
      ...change,
    };
  };
  assert.deepEqual(forwardChanges(nic([1001, 1002]), nic([1002, 1003])), {
    remove: ["tcp:127.0.0.1:1001"],
    add: ["tcp:127.0.0.1:1003-10.9.0.5:80"],
  });
  assert.deepEqual(forwardChanges(nic([1001]), nic([1001])), { remove: [], add: [] });
  assert.equal(forwardChanges(nic([1001]), nic([1001], { ip: "10.9.0.6" })), undefined);
  assert.equal(
    forwardChanges(nic([1001]), nic([1001], { binding: { kind: "tap", device: "ut0", mtu: 1400 } })),
    undefined,
  );
});

Deno.test("percentOf() grows with what is sent and is 100 only when completed", () => {
  const half = {
    ...noProgress,
    memoryTotalBytes: 100,
    memoryRemainingBytes: 50,
    diskTotalBytes: 100,
    diskTransferredBytes: 50,
  };
  assert.equal(percentOf("memory", noProgress), 0);
  assert.equal(percentOf("memory", half), 50);
  assert.equal(percentOf("memory", { ...half, memoryRemainingBytes: 0, diskTransferredBytes: 100 }), 99);
  assert.equal(percentOf("completed", noProgress), 100);
});

Deno.test("needsLease() follows the disks unless the spec says otherwise", () => {
  const shared = volume("B", nbd(nbdUri("/run/nbd.sock", "x")));
  assert.equal(needsLease(specFixture({ volumes: [volume("A")] })), false);
  assert.equal(needsLease(specFixture({ volumes: [shared] })), true);
  assert.equal(needsLease(specFixture({ rootVolume: shared })), true);
  assert.equal(needsLease(specFixture({ volumes: [shared], onLeaseLoss: "keep" })), false);
  assert.equal(needsLease(specFixture({ onLeaseLoss: "stop" })), true);
});

Deno.test("a VM that is on keeps its root disk, and is known to have both what it had and what it gets", () => {
  const was = specFixture({ volumes: [volume("A")], diskBytes: 64 * mib });
  const wanted = runnable(specFixture({ rootVolume: volume("R"), volumes: [volume("B")], nics: [] }), was);
  assert.equal(wanted.rootVolume, undefined);
  assert.equal(wanted.diskBytes, 64 * mib);
  assert.deepEqual(localVolumes(union(was, wanted)).map(({ volumeId }) => volumeId.slice(-1)).sort(), ["A", "B"]);
  assert.equal(union(was, wanted).nics.length, 1);
  const [nic] = was.nics;
  assert.deepEqual(
    union(was, specFixture({ nics: [{ ...nic!, mac: "52:54:00:00:00:01" }] })).nics,
    [nic],
    "one that is to change is as it was until it has changed",
  );
});
