/**
 * Proves with a real Debian guest that NoCloud reaches it: mmdebstrap builds a root with cloud-init, the worker boots
 * it, and the guest tells over its serial line which user, key, host name and address it took. Takes minutes under TCG.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { systemClock } from "@ultracloud/base";
import { noopLogger, Registry } from "@ultracloud/observe";
import { missingPrograms } from "@ultracloud/testing";
import type { NicSpec } from "./domain/spec.ts";
import { HostUser } from "./host_user.ts";
import { WorkerLease } from "./lease.ts";
import { qemuVersion } from "./probe.ts";
import { consoleText } from "./testdata/guest_agent.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { Vms } from "./vms.ts";

const mib = 2 ** 20;
const rootBytes = 1_536 * mib;
const bootMs = 420_000;
const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJrD2Qm3Yk0Kq8b1mZ0kq5xv7yJxw3c0vG7yYp1dX9aB someone@example";

/** Ends the run without a verdict, and says why. */
function skip(reason: string): never {
  console.log(`SKIP Debian with cloud-init: ${reason}`);
  console.log("0 passed, 0 failed, 1 skipped");
  Deno.exit(0);
}

async function run(program: string, ...args: string[]): Promise<void> {
  const output = await new Deno.Command(program, { args, stdout: "null", stderr: "piped", env: { LC_ALL: "C" } })
    .output();
  if (output.success) return;
  throw new Error(`${program} ended with ${output.code}: ${new TextDecoder().decode(output.stderr).slice(-800)}`);
}

const missing = missingPrograms("mmdebstrap", "mke2fs", "qemu-system-x86_64", "qemu-img");
if (missing) skip(missing);
if (Deno.uid() !== 0) skip("building a root file system needs root");

const packages = [
  "systemd-sysv",
  "cloud-init",
  "linux-image-cloud-amd64",
  "udev",
  "iproute2",
  "ifupdown",
  "isc-dhcp-client",
];
const dir = await Deno.makeTempDir({ prefix: "uva" });
let vms: Vms | undefined;
let pid = 0;
try {
  const root = `${dir}/root`;
  const began = performance.now();
  try {
    await run(
      "mmdebstrap",
      ...["--variant=minbase", `--include=${packages.join(",")}`, "--quiet", "bookworm", root],
    );
  } catch (error) {
    skip(
      `mmdebstrap could not build a root, is its mirror reachable? ${error instanceof Error ? error.message : error}`,
    );
  }
  await run(
    "mke2fs",
    "-q",
    "-F",
    "-t",
    "ext4",
    "-L",
    "debian-root",
    "-d",
    root,
    `${dir}/root.ext4`,
    `${rootBytes / mib}M`,
  );
  const names = [...Deno.readDirSync(`${root}/boot`)].map((entry) => entry.name);
  const part = async (prefix: string) =>
    await Deno.readFile(`${root}/boot/${names.find((name) => name.startsWith(prefix))}`);
  const cmdline = new TextEncoder().encode("root=LABEL=debian-root rw console=ttyS0 net.ifnames=0");
  const bundle = tar([["kernel", await part("vmlinuz-")], ["initrd", await part("initrd.img-")], ["cmdline", cmdline]]);
  await Deno.remove(root, { recursive: true });
  console.log(`built in ${Math.round((performance.now() - began) / 1000)} s`);

  const disk = await Deno.readFile(`${dir}/root.ext4`);
  const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  const contents = new Map([[digest(bundle), bundle], [digest(disk), disk]]);
  const version = await qemuVersion();
  vms = new Vms({
    stateDir: `${dir}/state`,
    runDir: `${dir}/run`,
    host: { accelerator: "tcg", qemuMajor: version.major, qemuMinor: version.minor },
    consoleBytesMax: mib,
    imageCacheBytesMax: 2 ** 40,
    tickMs: 1_000,
  }, {
    clock: systemClock,
    log: noopLogger,
    registry: new Registry(),
    user: new HostUser({ uidFirst: undefined }),
    lease: new WorkerLease({ stateDir: dir }, { clock: systemClock }),
    readImage: async function* (sha256, offset) {
      const bytes = contents.get(sha256)!;
      for (let at = offset; at < bytes.length; at += mib) yield await Promise.resolve(bytes.subarray(at, at + mib));
    },
    signal: new AbortController().signal,
  });
  await vms.open();
  const volumeId = "vol_01J0000000000000000000000R";
  await vms.volumes.create(volumeId, 2 * 1024 * mib, { sha256: digest(disk), format: "raw", bytes: disk.length });
  const nic: NicSpec = {
    portId: "port_1",
    mac: "52:54:00:c1:00:01",
    ip: "10.9.3.21",
    binding: {
      kind: "user",
      cidr: "10.9.3.0/24",
      gatewayIp: "10.9.3.1",
      dnsIp: "10.9.3.2",
      restrict: true,
      forwards: [],
    },
  };
  const spec = specFixture({
    name: "debian",
    memoryBytes: 768 * mib,
    image: { sha256: digest(bundle), format: "kernel_bundle", bytes: bundle.length },
    rootVolume: { volumeId, sizeBytes: 2 * 1024 * mib, readOnly: false, source: { kind: "local" } },
    nics: [nic],
    sshAuthorizedKeys: [key],
    userData: `#cloud-config
users:
  - default
  - name: alice
    shell: /bin/bash
    ssh_authorized_keys:
      - ${key.replace("someone", "alice")}
runcmd:
  - echo "SEEN host=$(hostname) alice=$(id -un alice) keys=$(cat /home/alice/.ssh/authorized_keys /home/debian/.ssh/authorized_keys | grep -c '^ssh-ed25519') address=$(ip -4 -o addr show eth0 | sed -n 's/.* inet \\([0-9.]*\\).*/\\1/p') mac=$(cat /sys/class/net/eth0/address) END" >/dev/ttyS0
`,
  });
  const booted = performance.now();
  pid = (await vms.ensure(spec)).pid;
  const seen = await consoleText(vms, spec.vmId, 0, /SEEN .* END/, bootMs).catch(async (error) => {
    const signal = AbortSignal.timeout(10_000);
    const { data } = await vms!.readConsole(spec.vmId, { offset: -6_000, limit: 6_000, waitMs: 0, signal });
    console.log(new TextDecoder().decode(data));
    throw error;
  });
  console.log(`${seen} after ${Math.round((performance.now() - booted) / 1000)} s`);
  assert.equal(seen, "SEEN host=debian alice=alice keys=2 address=10.9.3.21 mac=52:54:00:c1:00:01 END");
  console.log("1 passed, 0 failed, 0 skipped");
} finally {
  for (const vm of vms?.list() ?? []) await vms!.remove(vm.vmId);
  await vms?.[Symbol.asyncDispose]();
  if (pid > 0) console.log(`QEMU ${pid} has ended`);
  await Deno.remove(dir, { recursive: true });
}

/** An uncompressed tar of plain files. */
function tar(members: readonly (readonly [name: string, data: Uint8Array])[]): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (const [name, data] of members) {
    const header = new Uint8Array(512);
    header.set(new TextEncoder().encode(name), 0);
    header.set(new TextEncoder().encode(data.length.toString(8).padStart(11, "0")), 124);
    header[156] = 0x30;
    blocks.push(header, data, new Uint8Array((512 - data.length % 512) % 512));
  }
  blocks.push(new Uint8Array(1024));
  const out = new Uint8Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    out.set(block, at);
    at += block.length;
  }
  return out;
}
