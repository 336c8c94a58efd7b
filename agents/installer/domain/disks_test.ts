import assert from "node:assert/strict";
import { disksOf, markCandidates, parseById, parseLsblk, partitionNamed } from "./disks.ts";
import { nodeOfPartition, partitionName, sfdiskScript } from "./layout.ts";

/** As lsblk of util-linux 2.41 says it, shortened. */
const lsblk = JSON.stringify({
  blockdevices: [
    { kname: "sr0", path: "/dev/sr0", type: "rom", size: 120_940_544, label: "UCISO", fstype: "iso9660", serial: null },
    {
      kname: "vda",
      path: "/dev/vda",
      type: "disk",
      size: 4_294_967_296,
      serial: "uc-worker-root",
      model: null,
      wwn: null,
      fstype: null,
      pttype: "gpt",
      children: [
        {
          kname: "vda1",
          path: "/dev/vda1",
          type: "part",
          size: 1,
          fstype: "vfat",
          label: "UCESP",
          partlabel: "uce-n1",
        },
        { kname: "vda2", path: "/dev/vda2", type: "part", size: 2, fstype: null, partlabel: "ucr-n1" },
      ],
    },
    { kname: "sda", path: "/dev/sda", type: "disk", size: "8", serial: " S1 ", pttype: "dos", fstype: null },
    {
      kname: "sdb",
      path: "/dev/sdb",
      type: "disk",
      size: 9,
      pttype: "dos",
      children: [{ kname: "sdb1", path: "/dev/sdb1", type: "part", size: 1, label: "UCISO", fstype: "iso9660" }],
    },
    { kname: "loop0", path: "/dev/loop0", type: "loop", size: 5 },
  ],
});
const devices = parseLsblk(lsblk);
const byId = parseById("/dev/disk/by-id/virtio-uc-worker-root\t../../vda\n/dev/disk/by-id/b\t../../sda\nbroken\n");
const found = disksOf(devices, byId, { mediumLabel: "UCISO", owners: new Map() });
const disk = (name: string) => found.find(({ device }) => device.kname === name)!;

Deno.test("disks and drives are told, other block devices are not", () => {
  assert.deepEqual(found.map(({ device }) => device.kname), ["sr0", "vda", "sda", "sdb"]);
});

Deno.test("a disk has its stable names, its size and its serial", () => {
  const { by_id, bytes_count, serial, wwn } = disk("vda");
  assert.deepEqual([by_id, bytes_count, serial, wwn], [
    ["/dev/disk/by-id/virtio-uc-worker-root"],
    4_294_967_296,
    "uc-worker-root",
    "",
  ]);
  assert.deepEqual([disk("sda").serial, disk("sda").bytes_count], ["S1", 8]);
});

Deno.test("what the installer was started from is known on a drive and on a stick", () => {
  assert.deepEqual(found.filter((one) => one.boot_medium).map(({ device }) => device.kname), ["sr0", "sdb"]);
});

Deno.test("the names of partitions say whose disk it is, before there is a file system", () => {
  assert.equal(disk("vda").owner_node, "n1");
  assert.deepEqual(disk("vda").signatures, ["gpt", "vfat"]);
});

Deno.test("a mark on a file system counts more than a name in the table", () => {
  const owners = new Map([["vda1", "n2"]]);
  const marked = disksOf(devices, byId, { mediumLabel: "UCISO", owners });
  assert.equal(marked[1]!.owner_node, "n2");
  assert.deepEqual(markCandidates(devices, "UCESP").map(({ kname }) => kname), ["vda1"]);
});

Deno.test("a table without partitions, as a power cut leaves it, is nobody's data", () => {
  assert.deepEqual(disk("sda").signatures, []);
});

Deno.test("the built-in layout finds its own partitions again", () => {
  assert.equal(partitionNamed(disk("vda").device, partitionName("root", "n1"))?.path, "/dev/vda2");
  assert.equal(partitionNamed(disk("vda").device, partitionName("root", "n2")), undefined);
  const longest = "n".repeat(32);
  assert.ok(partitionName("esp", longest).length <= 36);
  assert.equal(nodeOfPartition(partitionName("esp", longest)), longest);
  assert.equal(nodeOfPartition("EFI System"), "");
  assert.match(sfdiskScript("n1", 512 * 2 ** 20), /^label: gpt\n\nsize=524288KiB, type=\S+, name="uce-n1"\ntype=/);
});

Deno.test("what is not lsblk's is refused", () => {
  assert.throws(() => parseLsblk("lsblk: failed"), { code: "lsblk_unreadable" });
  assert.throws(() => parseLsblk('{"blockdevices":[{"kname":"x"}]}'), { code: "lsblk_unreadable" });
});
