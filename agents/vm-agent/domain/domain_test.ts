import assert from "node:assert/strict";
import { Fault, utf8 } from "@ultracloud/base";
import { missingPrograms, testUnless } from "@ultracloud/testing";
import fc from "fast-check";
import { specFixture } from "../testdata/spec_fixture.ts";
import { machineTypeOf, qemuArgs, vcpusOn, type VmFiles } from "./argv.ts";
import { type Layout, placed } from "./layout.ts";
import { writeIso } from "./iso.ts";
import { seedFiles } from "./seed.ts";
import { checkGeneration, checkSpec, type NicSpec, type VmSpec } from "./spec.ts";

const files: VmFiles = {
  qmpSocket: "/run/a,b/slot-00/qmp.sock",
  serialSocket: "/run/a,b/slot-00/serial.sock",
  pidFile: "/run/a,b/slot-00/qemu.pid",
  consoleLog: "/state/vm/console.log",
  seed: "/state/vm/seed.iso",
  disks: [
    { device: "root", source: { kind: "file", path: "/state/vm/disk.qcow2" }, sizeBytes: 2 ** 26, readOnly: false },
    {
      device: "vol_01J00000000000000000000001",
      source: { kind: "nbd", uri: "nbd+unix:///vol.1?socket=/run/vol-00/nbd.sock" },
      sizeBytes: 2 ** 26,
      readOnly: true,
    },
  ],
  kernel: { kernel: "/img/kernel", initrd: "/img/initrd", cmdline: "console=ttyS0 quiet" },
};

const host = { accelerator: "tcg", qemuMajor: 7, qemuMinor: 2 } as const;

function layoutOf(spec: VmSpec): Layout {
  const devices = [...files.disks.map((disk) => disk.device), ...spec.nics.map((nic) => nic.portId)];
  const hardware = {
    machineType: machineTypeOf(host),
    vcpus: vcpusOn(host, spec.vcpus),
    memoryBytes: spec.memoryBytes,
  };
  return { ...hardware, ports: placed(hardware.machineType, {}, devices), sizes: {} };
}

Deno.test("qemuArgs() writes the arguments of the golden file", async () => {
  const tap: NicSpec = {
    portId: "port_2",
    mac: "52:54:00:01:02:04",
    ip: "10.9.1.5",
    binding: { kind: "tap", device: "tap0", mtu: 1400 },
  };
  const spec = specFixture({ nics: [...specFixture().nics, tap], vcpus: 2 });
  const shown = qemuArgs(spec, layoutOf(spec), files, host).join("\n") + "\n";
  const golden = new URL("../testdata/qemu_args.txt", import.meta.url);
  if (Deno.env.has("UPDATE_GOLDEN")) await Deno.writeTextFile(golden, shown);
  assert.equal(shown, await Deno.readTextFile(golden));
});

Deno.test("qemuArgs() gives a microvm virtio-mmio devices at fixed places, a clock, and nothing of a PC", () => {
  const spec = specFixture({ machineType: "microvm" });
  const devices = [...files.disks.map((disk) => disk.device), ...spec.nics.map((nic) => nic.portId)];
  const layout = { ...layoutOf(spec), machineType: "microvm", ports: placed("microvm", {}, devices) };
  const args = qemuArgs(spec, layout, files, host);
  const machine = args[args.indexOf("-machine") + 1]!;
  assert.match(machine, /^microvm,acpi=off,.*rtc=on/);
  const places = args.filter((_, i) => args[i - 1] === "-device").map((text) => JSON.parse(text)).map((device) => [
    device.driver,
    device.bus,
  ]);
  assert.deepEqual(places, [
    ["virtio-rng-device", "virtio-mmio-bus.7"],
    ["virtio-blk-device", "virtio-mmio-bus.6"],
    ["virtio-blk-device", "virtio-mmio-bus.0"],
    ["virtio-blk-device", "virtio-mmio-bus.1"],
    ["virtio-net-device", "virtio-mmio-bus.2"],
  ]);
  assert.ok(!/pci|VGA|bootindex|romfile/.test(args.join(" ")));
});

Deno.test("checkSpec() refuses a microvm that could not boot, or has more devices than places", () => {
  const micro = (change: Partial<VmSpec>) => () => checkSpec(specFixture({ machineType: "microvm", ...change }));
  assert.ok(micro({})());
  const refused = (error: unknown) => error instanceof Fault && error.kind === "invalid_argument";
  assert.throws(micro({ image: { ...specFixture().image, format: "raw" } }), refused);
  const nic = specFixture().nics[0]!;
  const nics = Array.from({ length: 6 }, (_, i) => ({ ...nic, portId: `port_${i}`, mac: `52:54:00:00:00:0${i}` }));
  assert.throws(micro({ nics }), refused);
  assert.ok(micro({ nics, diskBytes: 0 })());
});

Deno.test("qemuArgs() keeps user data and keys off the command line", () => {
  const spec = specFixture({ userData: "#!/bin/sh\nsecret", sshAuthorizedKeys: ["ssh-ed25519 AAAA secret"] });
  assert.ok(!qemuArgs(spec, layoutOf(spec), files, { ...host, accelerator: "kvm" }).join(" ").includes("secret"));
});

Deno.test("vcpusOn() gives one vCPU where several do not boot", () => {
  assert.equal(vcpusOn({ accelerator: "tcg", qemuMajor: 7, qemuMinor: 2 }, 4), 1);
  assert.equal(vcpusOn({ accelerator: "tcg", qemuMajor: 10, qemuMinor: 0 }, 4), 4);
  assert.equal(vcpusOn({ accelerator: "kvm", qemuMajor: 7, qemuMinor: 2 }, 4), 4);
});

Deno.test("checkSpec() takes the fixture and points at the field of anything that must not reach a command line", () => {
  assert.ok(checkSpec(specFixture()));
  const nic = specFixture().nics[0]!;
  const withBinding = (change: object) =>
    specFixture({ nics: [{ ...nic, binding: { ...nic.binding, ...change } as NicSpec["binding"] }] });
  const bad: [VmSpec, string][] = [
    [specFixture({ vmId: "vm_../../etc" }), "spec.vm_id"],
    [specFixture({ name: "a,b" }), "spec.name"],
    [specFixture({ vcpus: 0 }), "spec.vcpus"],
    [specFixture({ memoryBytes: 2 ** 20 + 1 }), "spec.memory_bytes"],
    [specFixture({ diskBytes: 100 }), "spec.disk_bytes"],
    [specFixture({ image: { sha256: "../x", format: "raw", bytes: 1 } }), "spec.image_sha256"],
    [specFixture({ nics: [{ ...nic, mac: "52:54:00:01:02:03,x=y" }] }), "spec.nics[0].mac_address"],
    [specFixture({ nics: [{ ...nic, ip: "10.0.0.1,x" }] }), "spec.nics[0].ip_address"],
    [withBinding({ cidr: "10.0.0.0/24,x" }), "spec.nics[0].binding.user.cidr"],
    [withBinding({ cidr: "10.0.0.0/99" }), "spec.nics[0].binding.user.cidr"],
    [withBinding({ gatewayIp: "" }), "spec.nics[0].binding.user.gateway_ip"],
    [
      specFixture({ nics: [{ ...nic, binding: { kind: "tap", device: "t,script=/x", mtu: 0 } }] }),
      "spec.nics[0].binding.tap.device",
    ],
    [specFixture({ userData: "x".repeat(70_000) }), "spec.user_data"],
    [specFixture({ sshAuthorizedKeys: ["a\nb"] }), "spec.ssh_authorized_keys[0]"],
    [specFixture({ nics: Array(9).fill(nic) }), "spec.nics"],
  ];
  for (const [spec, field] of bad) {
    assert.throws(() => checkSpec(spec), (error) => error instanceof Fault && error.detail.field === field, field);
  }
});

Deno.test("checkGeneration() refuses only what is older", () => {
  checkGeneration(3, 3, "vm");
  checkGeneration(3, 4, "vm");
  assert.throws(() => checkGeneration(3, 2, "vm"), (error) => error instanceof Fault && error.kind === "aborted");
});

Deno.test("seedFiles() writes meta-data, network-config and user-data as cloud-init reads them", () => {
  const shown = seedFiles(specFixture({ sshAuthorizedKeys: ['ssh-ed25519 AAAA me"x'] }))
    .map((file) => `== ${file.name}\n${file.text}`).join("");
  assert.equal(
    shown,
    `== meta-data
instance-id: vm_01J00000000000000000000000
local-hostname: web
hostname: web
public-keys:
  - "ssh-ed25519 AAAA me\\"x"
== network-config
version: 2
ethernets:
  nic0:
    match:
      macaddress: "52:54:00:01:02:03"
    dhcp4: true
    optional: true
== user-data
#cloud-config
{}
`,
  );
});

/** Reads the Joliet tree the dumb way: what any reader must find. */
function readIso(image: Uint8Array): Record<string, string> {
  const view = new DataView(image.buffer, image.byteOffset);
  const at = (sector: number) => sector * 2048;
  const volume = at(17);
  assert.equal(new TextDecoder().decode(image.subarray(volume + 1, volume + 6)), "CD001");
  assert.equal(view.getUint32(volume + 80, true) * 2048, image.length);
  let record = at(view.getUint32(volume + 156 + 2, true));
  const out: Record<string, string> = {};
  while (image[record]! > 0) {
    const idBytes = image[record + 32]!;
    if (idBytes > 1) {
      const id = new TextDecoder("utf-16be").decode(image.subarray(record + 33, record + 33 + idBytes));
      const from = at(view.getUint32(record + 2, true));
      out[id] = new TextDecoder().decode(
        image.subarray(from, from + view.getUint32(record + 10, true)),
      );
    }
    record += image[record]!;
  }
  return out;
}

Deno.test("writeIso() keeps names and content of any files", () => {
  const name = fc.stringMatching(/^[a-z][a-z-]{0,30}$/);
  fc.assert(
    fc.property(fc.dictionary(name, fc.string({ maxLength: 5000 }), { maxKeys: 12 }), (wanted) => {
      const plain = Object.fromEntries(Object.entries(wanted).map(([key, value]) => [key, value.toWellFormed()]));
      const list = Object.entries(plain).map(([key, value]) => ({ name: key, data: utf8.encode(value) }));
      assert.deepEqual(readIso(writeIso("cidata", list)), plain);
    }),
    { numRuns: 50 },
  );
});

testUnless("isoinfo reads the seed: label, Joliet names and content", missingPrograms("isoinfo"), async () => {
  const path = await Deno.makeTempFile({ suffix: ".iso" });
  try {
    const list = seedFiles(specFixture({ userData: "#cloud-config\nhostname: x\n" }));
    await Deno.writeFile(
      path,
      writeIso("cidata", list.map((file) => ({ name: file.name, data: utf8.encode(file.text) }))),
    );
    const isoinfo = async (...args: string[]) =>
      new TextDecoder().decode((await new Deno.Command("isoinfo", { args: [...args, "-i", path] }).output()).stdout);
    assert.match(await isoinfo("-d"), /Volume id: cidata\n/);
    assert.equal(await isoinfo("-J", "-f"), "/meta-data\n/network-config\n/user-data\n");
    assert.equal(await isoinfo("-J", "-x", "/user-data"), "#cloud-config\nhostname: x\n");
    assert.equal(await isoinfo("-f"), "/FILE0.BIN;1\n/FILE1.BIN;1\n/FILE2.BIN;1\n");
  } finally {
    await Deno.remove(path);
  }
});
