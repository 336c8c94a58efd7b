import assert from "node:assert/strict";
import { handoverDir, readHandover } from "@ultracloud/bootstrap";
import { markerNames } from "@ultracloud/cluster-state";
import { byId, openWorld, system } from "./test_world.ts";

const installed = markerNames.slice(0, 6);

Deno.test("a machine installs itself: every step in order, on the console and at the deployer", async () => {
  await using w = await openWorld();
  await w.install();
  assert.deepEqual(w.shown(), [`pre-install.boot.sn-1`, ...installed.slice(1).map((name) => `${name}.node01`)]);
  assert.deepEqual(w.posted, installed.map((name) => `${name} node01`));
  const order = ["sfdisk", "mkfs.vfat", "mkfs.ext4", "nix copy", "nix-env", "chroot", "sync", "umount", "reboot"];
  const at = order.map((program) => w.programs.findLastIndex((line) => line.startsWith(program)));
  assert.deepEqual(at, [...at].sort((a, b) => a - b), w.programs.join("\n"));
  const copy = w.programs.find((line) => line.startsWith("nix copy --quiet"))!;
  assert.match(copy, /--option trusted-public-keys uc-test-1:\S+ --option substituters {2}--option require-sigs true/);
  const handover = await readHandover(`${w.dir}/mnt${handoverDir}`);
  assert.deepEqual([handover.node, handover.bootstrap_token, handover.system], ["node01", "token", system]);
  assert.deepEqual(JSON.parse(await Deno.readTextFile(`${w.dir}/mnt/boot/ultracloud/owner.json`)), {
    node: "node01",
    machine_id: "",
  });
});

Deno.test("what the deployer refuses touches no disk, and the marker says why", async () => {
  await using w = await openWorld();
  delete w.answer.install_plan;
  w.answer.install_refused = { code: "disk_serial_mismatch", message: "Cannot install node01: its serial is d1" };
  await w.install(() => w.shown().length > 3);
  assert.equal(w.shown().at(-1), "install.disko.failed.node01 disk_serial_mismatch");
  assert.ok(!w.programs.some((line) => /^(sfdisk|mkfs|wipefs|nix)/.test(line)));
});

const disks: Readonly<Record<string, [spoil: (w: Awaited<ReturnType<typeof openWorld>>) => void, code: string]>> = {
  "another serial than the plan's": [(w) => w.answer.install_plan.expected_disk_serial = "d2", "disk_serial_mismatch"],
  "no disk of that name": [(w) => w.answer.install_plan.target_disk_by_id = `${byId}-gone`, "disk_not_found"],
  "a disk that is too small": [(w) => w.answer.install_plan.expected_disk_bytes_min = 2 ** 40, "disk_too_small"],
  "a disk of another node": [(w) => w.disk.partlabel = "ucr-node02", "disk_foreign_data"],
  "a disk with somebody's data": [(w) => {
    w.disk.partlabel = "data";
    w.disk.fstype = "xfs";
  }, "disk_foreign_data"],
};
for (const [what, [spoil, code]] of Object.entries(disks)) {
  Deno.test(`the installer itself refuses ${what}, whatever the deployer answered`, async () => {
    await using w = await openWorld();
    spoil(w);
    await w.install(() => w.shown().some((line) => line.startsWith("install.disko.failed")));
    assert.equal(w.shown().at(-1), `install.disko.failed.node01 ${code}`);
    assert.ok(!w.programs.some((line) => /^(sfdisk|mkfs|wipefs|nix)/.test(line)));
  });
}

Deno.test("the node's own half of an installation is written over", async () => {
  await using w = await openWorld();
  w.disk.partlabel = "ucr-node01";
  w.disk.fstype = "ext4";
  await w.install();
  assert.equal(w.shown().at(-1), "reboot.node01");
});

Deno.test("an unsigned closure and a damaged one are told apart, and an attempt later it may go well", async () => {
  await using w = await openWorld();
  w.replies.set("nix", {
    code: 1,
    stderr: "error: cannot add path '/nix/store/x' because it lacks a signature by a trusted key",
  });
  let told = 0;
  await w.install(() => {
    const last = w.shown().at(-1)!;
    if (told === 0 && last.endsWith("closure_untrusted")) {
      w.replies.set("nix", { code: 1, stderr: "error: hash mismatch importing path '/nix/store/x'" });
      told++;
    } else if (told === 1 && last.endsWith("closure_damaged")) {
      w.replies.delete("nix");
      told++;
    }
    return false;
  });
  const failures = w.shown().filter((line) => line.includes("failed"));
  assert.deepEqual(failures, [
    "install.nixos-install.failed.node01 closure_untrusted",
    "install.nixos-install.failed.node01 closure_damaged",
  ]);
  assert.equal(w.shown().at(-1), "reboot.node01");
});

Deno.test("a bundle that was changed, or that another key signed, is not used", async () => {
  await using w = await openWorld();
  w.http.bundle = () => new Response("the bundlE");
  await w.install(() => w.shown().some((line) => line.startsWith("install.bundle.failed")));
  assert.equal(w.shown().at(-1), "install.bundle.failed.node01 bundle_damaged");
  await using other = await openWorld();
  other.answer.bundle_public_key = new Uint8Array(32).fill(7).toBase64();
  await other.install(() => other.shown().some((line) => line.startsWith("install.bundle.failed")));
  assert.equal(other.shown().at(-1), "install.bundle.failed.node01 bundle_untrusted");
});

Deno.test("a refused token is shown once, however often it is tried, and nothing else happens", async () => {
  await using w = await openWorld();
  let calls = 0;
  w.http.phoneHome = () => {
    calls++;
    return Response.json({ code: "token_unknown", message: "Cannot use the token" }, { status: 401 });
  };
  await w.install(() => calls >= 3);
  assert.deepEqual(w.shown(), ["pre-install.boot.sn-1", "pre-install.phone-home.failed.sn-1 token_unknown"]);
  assert.deepEqual(w.posted, []);
});

Deno.test("an unknown machine waits for its approval and then goes on", async () => {
  await using w = await openWorld();
  const enrolled = w.http.phoneHome;
  w.http.phoneHome = () => {
    w.http.phoneHome = enrolled;
    return Response.json({ status: "pending", machine: "SN-1", reason: "no node has its serial" }, { status: 202 });
  };
  await w.install();
  assert.deepEqual(w.shown().slice(1, 3), [
    "pre-install.phone-home.pending.sn-1 no node has its serial",
    "pre-install.phone-home.complete.node01",
  ]);
});

Deno.test("an answer that is not one is refused as a whole", async () => {
  await using w = await openWorld();
  w.answer.install_plan.target_disk_by_id = "/dev/sda";
  await w.install(() => w.shown().length > 1);
  assert.equal(w.shown().at(-1), "pre-install.phone-home.failed.sn-1 answer_invalid");
});
