import assert from "node:assert/strict";
import { missingPrograms, testUnless, workspaceRoot } from "@ultracloud/testing";
import { type BootstrapParameters, parseCmdline } from "@ultracloud/bootstrap";
import { writeSiteIso } from "../../test-cluster/baremetal/iso.ts";
import { siteConfig } from "../../test-cluster/baremetal/site_config.ts";
import { askOnce, whyNoNix } from "./_flake.ts";

/** The shell scripts of systems and apps, run here with what they start replaced by something small. */

const why = whyNoNix ?? missingPrograms("bash", "curl", "jq");

const plain = "builtins.unsafeDiscardStringContext";
const textsOf = askOnce<Record<string, string>>(
  "checks.x86_64-linux",
  `checks: { iso = ${plain} checks.baremetal-iso-e2e.text; }`,
);
const scriptsOf = askOnce<Record<string, string>>(
  "nixosConfigurations",
  `systems: let
    services = name: systems.\${name}.config.systemd.services;
    tool = name: tool: (builtins.head (builtins.filter (it: it.name == tool) (services name).installer.path)).text;
  in builtins.mapAttrs (_: ${plain}) {
    secrets = (services "single-node-quickstart").ultracloud-secrets.script;
    certificates = (services "node01").ultracloud-secrets.script;
    smoke = (services "single-node-quickstart").ultracloud-smoke.script;
    site = (builtins.head systems.ultracloud-iso.config.isoImage.contents).source.text;
    parameters = (services "ultracloud-iso").installer.preStart;
    disko = tool "ultracloud-iso" "ultracloud-disko";
    qemu = "\${(builtins.head (builtins.filter (it: it.name == "qemu_kvm") (services "single-node-quickstart").vm-agent.path))}";
  }`,
);
const launcherOf = askOnce<Record<string, string>>(
  "packages.x86_64-linux",
  `packages: { launcher = ${plain} packages.single-node-quickstart.text; }`,
);
const stub = { name: "the stub's own" };

interface Ran {
  readonly code: number;
  readonly text: string;
}

async function bash(script: string, args: readonly string[] = [], env: Record<string, string> = {}): Promise<Ran> {
  const output = await new Deno.Command("bash", { args: ["-euc", script, "bash", ...args], env, stdin: "null" })
    .output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code: output.code, text: text(output.stdout) + text(output.stderr) };
}

async function withDir(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "nix-scripts-" });
  try {
    await work(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function program(path: string, text: string): Promise<void> {
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  await Deno.writeTextFile(path, `#!/bin/bash\n${text}\n`, { mode: 0o755 });
}

testUnless(
  "a trial machine makes its own keys once, and everybody may read whom to trust",
  why,
  () =>
    withDir(async (dir) => {
      const { secrets } = await scriptsOf(stub);
      const etc = `${dir}/etc/ultracloud`;
      await Deno.mkdir(etc, { recursive: true });
      await Deno.copyFile(`${workspaceRoot}/test-cluster/profiles/single-node-dev.json`, `${etc}/cluster.json`);
      const uc = `${Deno.execPath()} run -A ${workspaceRoot}/cli/main.ts`;
      const script = secrets!.replace(/\S+\/bin\/uc /, `${uc} `)
        .replaceAll("/etc/ultracloud", etc).replaceAll("/var/lib/ultracloud/credentials", `${dir}/credentials`);
      const first = await bash(script);
      assert.equal(first.code, 0, first.text);
      const key = await Deno.readTextFile(`${dir}/credentials/chainfire/identity.key`);
      assert.equal((await Deno.stat(`${etc}/trust.json`)).mode! & 0o777, 0o644);
      const again = await bash(script);
      assert.match(again.text, /0 made, \d+ kept/);
      assert.equal(await Deno.readTextFile(`${dir}/credentials/chainfire/identity.key`), key);
    }),
);

testUnless(
  "certificates are put where a component reads them, and never over those that mtls-agent renewed",
  why,
  () =>
    withDir(async (dir) => {
      const { certificates } = await scriptsOf(stub);
      const etc = `${dir}/etc/ultracloud`;
      for (const name of ["chainfire", "iam"]) {
        await Deno.mkdir(`${dir}/credentials/${name}`, { recursive: true });
        await Deno.mkdir(`${etc}/${name}`, { recursive: true });
        await Deno.writeTextFile(`${dir}/credentials/${name}/tls.crt`, "first");
      }
      await Deno.writeTextFile(`${etc}/iam/tls.crt`, "renewed");
      const script = certificates!.replaceAll("/etc/ultracloud", etc)
        .replaceAll("/var/lib/ultracloud/credentials", `${dir}/credentials`).replaceAll(/-o \S+ /g, "");
      const ran = await bash(script);
      assert.equal(ran.code, 0, ran.text);
      assert.equal(await Deno.readTextFile(`${etc}/chainfire/tls.crt`), "first");
      assert.equal((await Deno.stat(`${etc}/chainfire/tls.crt`)).mode! & 0o777, 0o600);
      assert.equal(await Deno.readTextFile(`${etc}/iam/tls.crt`), "renewed");
      assert.match(certificates!, /-o uc-chainfire .*\/chainfire\/tls|install -m 600 -o uc-chainfire/);
    }),
);

testUnless(
  "the smoke test of the trial machine names the component that is not ready",
  why,
  () =>
    withDir(async (dir) => {
      const { smoke, qemu } = await scriptsOf(stub);
      let ready = true;
      await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
        const { pathname } = new URL(request.url);
        return new Response(null, { status: pathname === "/readyz" && ready ? 200 : 503 });
      });
      const address = `127.0.0.1:${server.addr.port}`;
      const surface = { components: { chainfire: address, iam: address, tool: null } };
      await Deno.writeTextFile(`${dir}/surface.json`, JSON.stringify(surface));
      for (const name of ["qemu-system-x86_64", "qemu-img"]) await program(`${dir}/qemu/bin/${name}`, "");
      const script = smoke!.replaceAll("/etc/ultracloud/product-surface.json", `${dir}/surface.json`)
        .replaceAll(qemu!, `${dir}/qemu`).replace("seq 1 120", "seq 1 1");
      const good = await bash(script);
      assert.equal(good.code, 0, good.text);
      assert.match(good.text, /ready: chainfire\n.*ready: iam\n[^]*ULTRACLOUD_QUICKSTART passed\n$/);
      ready = false;
      const bad = await bash(script);
      assert.equal(bad.code, 1);
      assert.match(bad.text, new RegExp(`^ULTRACLOUD_QUICKSTART failed: chainfire at ${address} is not ready\n$`));
      ready = true;
      await Deno.remove(`${dir}/qemu/bin/qemu-img`);
      assert.match((await bash(script)).text, /failed: qemu-img is missing/);
    }),
);

testUnless("ultracloud-disko lays out the disk of the plan and no other", why, () =>
  withDir(async (dir) => {
    const { disko } = await scriptsOf(stub);
    await program(`${dir}/bin/disko-destroy-format-mount`, `echo "laid out: $*"`);
    const script = disko!.replaceAll(
      /\/nix\/store\/[^/]+\/bin\/disko-destroy-format-mount/g,
      `${dir}/bin/disko-destroy-format-mount`,
    );
    const worker = ["baremetal-qemu-worker", "/dev/disk/by-id/virtio-uc-worker-root", "/mnt"];
    assert.deepEqual(await bash(script, worker), { code: 0, text: "laid out: --yes-wipe-all-disks\n" });
    const refused: readonly [number, string, RegExp][] = [
      [0, "node77", /Cannot lay out node77: wanted one of baremetal-qemu-control-plane, baremetal-qemu-worker/],
      [1, "/dev/sda", /Cannot lay out \/dev\/sda for baremetal-qemu-worker: its layout is for .*uc-worker-root/],
      [2, "/target", /Cannot mount below \/target: wanted \/mnt/],
    ];
    for (const [at, value, says] of refused) {
      const { code, text } = await bash(script, worker.with(at, value));
      assert.equal(code, 1);
      assert.match(text, says);
    }
  }));

testUnless(
  "the launcher of the trial VM passes, fails and gives up with what the console says",
  why,
  () =>
    withDir(async (dir) => {
      const { launcher } = await launcherOf(stub);
      const run = async (console: string, end = "exec sleep 30") => {
        await program(`${dir}/bin/run-ultracloud-vm`, `log=\${4#file:}\nprintf '${console}' > "$log"\n${end}`);
        const script = launcher!.replaceAll(
          /\/nix\/store\/[^/]+\/bin\/run-ultracloud-vm/g,
          `${dir}/bin/run-ultracloud-vm`,
        );
        return await bash(script, [], { ULTRACLOUD_QUICKSTART_SECONDS: "3", TMPDIR: dir });
      };
      const passed = await run("ULTRACLOUD_QUICKSTART ready: iam\\nULTRACLOUD_QUICKSTART passed\\n");
      assert.equal(passed.code, 0, passed.text);
      assert.match(passed.text, /ready: iam\nULTRACLOUD_QUICKSTART passed/);
      assert.equal((await run("ULTRACLOUD_QUICKSTART failed: iam is not ready\\n")).code, 1);
      assert.match((await run("kernel panic\\n", "exit 1")).text, /ended before it was ready[^]*kernel panic/);
      const late = await run("booting\\n");
      assert.deepEqual([late.code, /not ready after 3 s[^]*booting/.test(late.text)], [1, true]);
    }),
);

testUnless(
  "a site's parameters get into the image by the medium's tool, and out of it to the installer",
  why,
  () =>
    withDir(async (dir) => {
      const { site, parameters } = await scriptsOf(stub);
      assert.equal(site, new TextDecoder().decode(siteConfig("")), "the file in the image has the tool's own form");
      const noise = crypto.getRandomValues(new Uint8Array(5000));
      await Deno.writeFile(`${dir}/blank.iso`, new Uint8Array([...noise, ...new TextEncoder().encode(site), ...noise]));
      const wanted: Partial<BootstrapParameters> = {
        deployer_url: "https://10.1.2.3:7152",
        bootstrap_token: "uc-abc.def_1",
        binary_cache_url: "http://10.1.2.3:8090",
        node_id: "worker1",
      };
      await writeSiteIso({ path: `${dir}/blank.iso` }, wanted, `${dir}/site.iso`);
      const image = await Deno.readFile(`${dir}/site.iso`);
      await Deno.writeFile(`${dir}/site.cfg`, image.slice(5000, 5000 + site!.length));
      const script = parameters!.replaceAll("/iso/ultracloud/site.cfg", `${dir}/site.cfg`)
        .replaceAll("/run/ultracloud/installer/cmdline", `${dir}/cmdline`)
        .replaceAll("/proc/cmdline", `${dir}/kernel`);
      await Deno.writeTextFile(`${dir}/kernel`, "root=LABEL=UCISO quiet ultracloud.hostname=first\n");
      const ran = await bash(script);
      assert.equal(ran.code, 0, ran.text);
      assert.deepEqual(parseCmdline(await Deno.readTextFile(`${dir}/cmdline`)), { ...wanted, hostname: "first" });
      // An image that nobody has prepared leaves the kernel's words as they are.
      await Deno.writeTextFile(`${dir}/site.cfg`, site!);
      await bash(script);
      assert.equal(
        (await Deno.readTextFile(`${dir}/cmdline`)).trim(),
        "root=LABEL=UCISO quiet ultracloud.hostname=first",
      );
    }),
);

testUnless("the runner of the bare-metal proof is a script that bash takes", why, async () => {
  const { iso } = await textsOf(stub);
  const { code, stderr } = await new Deno.Command("bash", { args: ["-n", "-c", iso!] }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
});
