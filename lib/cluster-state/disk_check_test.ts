import assert from "node:assert/strict";
import { type DiskPlan, refusalOf } from "./disk_check.ts";
import { type DiskFacts, identityOf, type MachineFacts } from "./facts.ts";

const gib = 2 ** 30;
const byId = "/dev/disk/by-id/virtio-root";
const disk: DiskFacts = {
  by_id: [byId, "/dev/disk/by-id/wwn-1"],
  serial: "D-1",
  bytes_count: 20 * gib,
  wwn: "wwn-1",
  model: "",
  boot_medium: false,
  signatures: [],
  owner_node: "",
};
const machine = (...disks: DiskFacts[]): MachineFacts => ({
  serial: "SN-1",
  machine_id: "m-1",
  vendor: "",
  product: "",
  architecture: "x86_64",
  cpus: 2,
  memory_bytes: gib,
  mac_addresses: [],
  disks,
  uefi: true,
  installer_version: "",
});
const plan: DiskPlan = {
  target_disk_by_id: byId,
  expected_disk_serial: "D-1",
  expected_disk_bytes_min: 10 * gib,
  expected_disk_bytes_max: 30 * gib,
  wipe_existing_data: false,
};
const held = [{ node: "node02", serial: "D-2", wwn: "wwn-2" }, { node: "node01", serial: "D-1", wwn: "wwn-1" }];

Deno.test("refusalOf() lets a plan pass on the disk it means, also when the node was there before", () => {
  assert.equal(refusalOf("node01", plan, machine(disk), held), undefined);
  const before = { ...disk, signatures: ["ext4"], owner_node: "node01" };
  assert.equal(refusalOf("node01", plan, machine(before), held), undefined);
});

Deno.test("refusalOf() refuses every disk that must not be written, and says which and why", () => {
  const cases: [DiskFacts[], Partial<DiskPlan>, string, RegExp][] = [
    [[], {}, "disk_not_found", /names none/],
    [[{ ...disk, by_id: ["/dev/disk/by-id/other"] }], {}, "disk_not_found", /wanted one of \/dev\/disk\/by-id\/other/],
    [[disk, { ...disk, serial: "D-9" }], {}, "disk_ambiguous", /2 disks/],
    [[{ ...disk, boot_medium: true }], {}, "disk_is_boot_medium", /started from/],
    [[{ ...disk, serial: "D-9" }], {}, "disk_serial_mismatch", /is D-9, wanted D-1/],
    [[{ ...disk, serial: "" }], {}, "disk_serial_mismatch", /is empty/],
    [[{ ...disk, bytes_count: gib }], {}, "disk_too_small", /wanted at least/],
    [[{ ...disk, bytes_count: 40 * gib }], {}, "disk_too_large", /wanted at most/],
    [[{ ...disk, owner_node: "node02" }], {}, "disk_holds_node", /node02, which is enrolled/],
    [[{ ...disk, wwn: "wwn-2" }], {}, "disk_holds_node", /node02/],
    [[{ ...disk, owner_node: "node02" }], { wipe_existing_data: true }, "disk_holds_node", /node02/],
    [[{ ...disk, signatures: ["ntfs"] }], {}, "disk_foreign_data", /ntfs/],
    [[{ ...disk, owner_node: "gone", signatures: ["ext4"] }], {}, "disk_foreign_data", /ext4/],
  ];
  for (const [disks, change, code, wanted] of cases) {
    const refusal = refusalOf("node01", { ...plan, ...change }, machine(...disks), held);
    assert.equal(refusal?.code, code);
    assert.match(refusal.message, wanted);
    assert.match(refusal.message, /^Cannot install node01 on \/dev\/disk\/by-id\/virtio-root: /);
  }
  const wiped = { ...disk, signatures: ["ntfs"] };
  assert.equal(refusalOf("node01", { ...plan, wipe_existing_data: true }, machine(wiped), held), undefined);
});

Deno.test("identityOf() takes the serial, and the generated id where boards ship a phrase", () => {
  assert.equal(identityOf({ serial: " SN-1 ", machine_id: "m" }), "SN-1");
  for (const serial of ["", "Default string", "To Be Filled By O.E.M.", "0000", "None"]) {
    assert.equal(identityOf({ serial, machine_id: "m" }), "m");
  }
});
