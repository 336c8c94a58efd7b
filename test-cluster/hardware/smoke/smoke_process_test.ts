import { createTestCa, missingPrograms, testUnless, workspaceRoot } from "@ultracloud/testing";
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { type MockBmc, startMockBmc } from "../mock/bmc.ts";
import { QemuMachine } from "../mock/qemu_machine.ts";
import { type QuirkProfile, quirkProfiles } from "../mock/quirks.ts";
import { tinyDisk, tinyIso } from "../mock/tiny_boot.ts";
import { parseStatus } from "./run_dir.ts";
import { siteConfig } from "../../baremetal/site_config.ts";

/*
 * hardware-smoke as an operator starts it, against a BMC that drives a real QEMU. The installer and the disk are a few
 * bytes each that tell their markers on the serial line; `deno task hardware-smoke prove` does it with the real ones.
 */

const noQemu = missingPrograms("qemu-system-x86_64");
const token = "tok-0123456789abcdef";
const credentials = { username: "operator", password: `p"ss wörd` };
const installMarkers = ["pre-install.boot", "pre-install.phone-home.complete", "install.bundle-downloaded"];
const line = (name: string, detail = "") => `ULTRACLOUD_MARKER ${name}.node01${detail && ` ${detail}`}\r\n`;
const goodCd = [...installMarkers, "install.disko.complete", "install.nixos-install.complete", "reboot"]
  .map((name) => line(name)).join("");
const badCd = [...installMarkers.map((name) => line(name)), line("install.disko.failed", "disk_mismatch: other serial")]
  .join("");
const goodDisk = line("post-install.boot") + line("desired-system-active");

interface Bench extends AsyncDisposable {
  readonly dir: string;
  readonly bmc: MockBmc;
  readonly args: readonly string[];
  serial(): Promise<string>;
}

/** A machine that is off, its BMC over TLS, an image, and the inputs for all of it. */
async function bench(profile: QuirkProfile, cd: string, trust: "ca" | "fingerprint"): Promise<Bench> {
  const dir = await Deno.makeTempDir({ prefix: "uc-hw-" });
  const at = (name: string) => `${dir}/${name}`;
  const image = new Uint8Array(2 * 1024 * 1024);
  image.set(tinyIso(cd, cd === goodCd ? "restart" : "stop"));
  image.set(siteConfig(""), 1024 * 1024);
  await Deno.writeFile(at("uc.iso"), image);
  await Deno.writeFile(at("disk.img"), tinyDisk(goodDisk, "stop"));
  await Deno.writeTextFile(at("serial.log"), line("reboot"));
  await Deno.writeTextFile(at("token"), `${token}\n`, { mode: 0o600 });
  await Deno.writeTextFile(at("bmc.json"), JSON.stringify(credentials), { mode: 0o600 });
  const ca = await createTestCa();
  const leaf = await ca.issue();
  await Deno.writeTextFile(at("bmc-ca.pem"), ca.caPem);
  const disk = [
    "-drive",
    `file=${at("disk.img")},format=raw,if=none,id=d`,
    "-device",
    "virtio-blk-pci,drive=d,bootindex=1",
  ];
  const machine = new QemuMachine({
    argv: ["qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "64", "-display", "none", "-nodefaults", ...disk],
    dir,
    serialFile: at("serial.log"),
  });
  const bmc = startMockBmc({ quirks: quirkProfiles[profile], ...credentials, serial: "SN-1", dir, tls: leaf }, machine);
  return {
    dir,
    bmc,
    serial: () => Deno.readTextFile(at("serial.log")),
    args: [
      ...["--deployer-url", "https://deployer.example:7152", "--node", "node01", "--token-file", at("token")],
      ...["--iso", at("uc.iso"), "--serve", "127.0.0.1:0", "--serial-log", at("serial.log")],
      ...[
        "--bmc-url",
        bmc.url,
        "--bmc-credentials-file",
        at("bmc.json"),
        "--timeout-seconds",
        "60",
        "--attach-seconds",
        "2",
      ],
      ...trust === "ca"
        ? ["--bmc-ca-file", at("bmc-ca.pem")]
        : ["--bmc-fingerprint", new X509Certificate(leaf.certPem).fingerprint256],
    ],
    async [Symbol.asyncDispose]() {
      await bmc[Symbol.asyncDispose]();
      await machine[Symbol.asyncDispose]();
      await Deno.remove(dir, { recursive: true });
    },
  };
}

function start(workRoot: string, args: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "-q",
      "--frozen",
      "--no-check",
      `${workspaceRoot}/test-cluster/hardware/smoke/main.ts`,
      ...args,
    ],
    cwd: workspaceRoot,
    env: { ULTRACLOUD_WORK_ROOT: workRoot, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function smoke(workRoot: string, args: readonly string[]): Promise<{ code: number; said: string }> {
  const { code, stdout, stderr } = await start(workRoot, args).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, said: text(stdout) + text(stderr) };
}

async function statusOf(workRoot: string): Promise<Record<string, string>> {
  return parseStatus(await Deno.readTextFile(`${workRoot}/hardware-smoke/latest/status.env`));
}

/** Every file of the latest run by its name. */
async function artifacts(workRoot: string): Promise<Record<string, string>> {
  const dir = `${workRoot}/hardware-smoke/latest`;
  const files: Record<string, string> = {};
  for await (const { name } of Deno.readDir(dir)) files[name] = await Deno.readTextFile(`${dir}/${name}`);
  return files;
}

async function holdsNoSecret(workRoot: string): Promise<void> {
  for (const [name, text] of Object.entries(await artifacts(workRoot))) {
    for (const secret of [token, credentials.password, `p\\"ss wörd`]) {
      assert.ok(!text.includes(secret), `${name} holds a secret`);
    }
  }
}

Deno.test("preflight on a bare host is blocked by 3, with every document and the exact inputs that are missing", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-hw-" });
  try {
    const { code, said } = await smoke(dir, ["preflight"]);
    assert.equal(code, 3, said);
    const files = await artifacts(dir);
    const named = [
      "environment.txt",
      "expected-markers.txt",
      "failure-markers.txt",
      "inputs.json",
      "kernel-params.txt",
    ];
    const all = [...named, "missing-requirements.txt", "operator-handoff.md", "status.env"];
    assert.deepEqual(Object.keys(files).sort(), all);
    const inputs = files["missing-requirements.txt"]!.trimEnd().split("\n").map((entry) => entry.split(":")[0]);
    assert.deepEqual(inputs, [
      "--deployer-url",
      "--node",
      "--token-file",
      "--iso",
      "--usb-device or --bmc-url",
      "--bmc-credentials-file",
      "--serial-log or --uc-context",
    ]);
    assert.deepEqual([(await statusOf(dir))["status"], (await statusOf(dir))["missing"]], ["blocked", "7"]);
    assert.equal((await smoke(dir, ["run", "--token", "x"])).code, 2);
    assert.equal((await smoke(dir, ["capture"])).code, 3);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

for (const [profile, trust] of [["supermicro-like", "fingerprint"], ["idrac-like", "ca"]] as const) {
  testUnless(`run installs a machine behind a BMC that is ${profile}, and leaves its drive empty`, noQemu, async () => {
    await using b = await bench(profile, goodCd, trust);
    const ready = await smoke(b.dir, ["preflight", ...b.args]);
    assert.equal(ready.code, 0, ready.said);
    assert.deepEqual(b.bmc.bodies, [], "preflight changes nothing");
    const { code, said } = await smoke(b.dir, ["run", ...b.args]);
    assert.equal(code, 0, said);
    const status = await statusOf(b.dir);
    assert.deepEqual(
      [status["status"], status["last_marker"], status["attempts"], status["media_ejected"]],
      ["passed", "desired-system-active", "1", "true"],
    );
    // Once from the image, then from the disk.
    assert.equal(await b.serial(), line("reboot") + goodCd + goodDisk);
    const fetched = await Deno.readFile(
      [...Deno.readDirSync(b.dir)].filter(({ name }) => name.startsWith("medium-"))
        .map(({ name }) => `${b.dir}/${name}`)[0]!,
    );
    assert.match(
      new TextDecoder().decode(fetched.subarray(1024 * 1024, 1024 * 1024 + 400)),
      new RegExp(
        `ultracloud_params="ultracloud\\.deployer_url=https://deployer\\.example:7152 .*${token}.*node_id=node01`,
      ),
    );
    const files = await artifacts(b.dir);
    assert.match(files["bmc-logs.json"]!, /virtual media connected/);
    assert.match(files["serial.log"]!, /desired-system-active\.node01/);
    assert.deepEqual((JSON.parse(files["capture.json"]!) as { missing: string[] }).missing, []);
    await holdsNoSecret(b.dir);
    const again = await smoke(b.dir, ["capture"]);
    assert.equal(again.code, 0, again.said);
    assert.equal((await statusOf(b.dir))["markers"], "complete");
  });
}

testUnless("a failure marker ends the run by 1 with its cause, and the image is taken out", noQemu, async () => {
  await using b = await bench("standard", badCd, "ca");
  const { code, said } = await smoke(b.dir, ["run", ...b.args]);
  assert.equal(code, 1, said);
  const status = await statusOf(b.dir);
  assert.deepEqual(
    [status["status"], status["failure_marker"], status["reason"], status["media_ejected"]],
    ["failed", "install.disko.failed", "disk_mismatch: other serial", "true"],
  );
  await holdsNoSecret(b.dir);
});

testUnless("an interrupt in mid-installation takes the image out", noQemu, async () => {
  await using b = await bench("standard", installMarkers.map((name) => line(name)).join(""), "ca");
  const child = start(b.dir, ["run", ...b.args]);
  const output = child.output();
  const end = performance.now() + 60_000;
  while (!(await b.serial()).includes("bundle-downloaded")) {
    assert.ok(performance.now() < end, "the machine never booted the image");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  child.kill("SIGINT");
  assert.equal((await output).code, 1);
  const status = await statusOf(b.dir);
  assert.deepEqual([status["status"], status["media_ejected"]], ["interrupted", "true"]);
});

Deno.test("a wrong password of the BMC blocks the run before anything is changed", async () => {
  await using b = await bench("standard", goodCd, "ca");
  await Deno.writeTextFile(`${b.dir}/bmc.json`, JSON.stringify({ username: "operator", password: "wrong" }));
  const { code, said } = await smoke(b.dir, ["run", ...b.args]);
  assert.equal(code, 3, said);
  assert.match(said, /missing --bmc-credentials-file: Cannot log in as operator: the BMC answered 401/);
  assert.ok(b.bmc.calls.every((call) => !call.includes("Actions")), "nothing was changed");
});
