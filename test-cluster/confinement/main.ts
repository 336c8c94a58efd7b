/**
 * What holds instances of node-agent and trials of nix-agent, on a kernel with control groups of version 2 and under a
 * real systemd: in a guest, because both are the host's own affair. `deno task confinement:prove [cgroup|systemd ...]`
 */
import { fault } from "@ultracloud/base";
import { buildTinyImage, writeCpio } from "@ultracloud/cli";
import { workspaceRoot } from "@ultracloud/testing";
import { needTool, withLibraries } from "../harness/qemu/packing.ts";

type CpioEntry = Parameters<typeof writeCpio>[0][number];

const memoryMib = 1536;
/** Under emulation on a busy host. */
const bootMsMax = 10 * 60_000;
/** Compilers cost more than they gain where every instruction is emulated. */
const deno = "/usr/bin/deno run --no-config --v8-flags=--no-opt,--no-sparkplug,--no-maglev,--single-threaded-gc -A";
const programs = [
  "sh",
  "cat",
  "sleep",
  "head",
  "tail",
  "touch",
  "mv",
  "date",
  "mkdir",
  "mount",
  "setsid",
  "timeout",
  "true",
];
const systemdPrograms = ["systemctl", "systemd-run"];
const systemd = "/lib/systemd/systemd";

const init = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
case "$(cat /kind)" in systemd) exec ${systemd} --unit=proof.target --log-target=kmsg --log-level=warning ;; esac
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec ${deno} /checks.js cgroup
`;

const units: Readonly<Record<string, string>> = {
  "proof.target": "[Unit]\nDefaultDependencies=no\nRequires=proof.service\nAfter=proof.service\n",
  "proof.service": `[Unit]
DefaultDependencies=no
[Service]
Environment=PATH=/usr/sbin:/usr/bin HOME=/root DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
ExecStart=${deno} /checks.js systemd
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
`,
  ...Object.fromEntries(
    ["sysinit.target", "basic.target", "shutdown.target"].map((name) => [name, "[Unit]\nDefaultDependencies=no\n"]),
  ),
};

async function run(program: string, args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args: [...args], cwd: workspaceRoot }).output();
  if (success) return;
  const said = new TextDecoder().decode(stderr).trim().slice(-600);
  throw fault(
    "failed_precondition",
    "program_failed",
    `Cannot run ${program} ${args.join(" ").slice(0, 200)}: ${said}`,
  );
}

/** One file with all it needs. */
async function bundle(entry: string, into: string): Promise<Uint8Array> {
  const options = ["--quiet", "--frozen", `--config=${workspaceRoot}/deno.json`, "--platform=deno", "--no-check"];
  await run(Deno.execPath(), ["bundle", ...options, `--output=${into}`, `${workspaceRoot}/${entry}`]);
  return await Deno.readFile(into);
}

/** The whole root of a guest, as the kernel unpacks it. */
async function tree(kind: string, dir: string): Promise<Uint8Array<ArrayBuffer>> {
  const files = new Map<string, { data: Uint8Array; mode: number }>();
  const binaries = [
    ...[...programs, ...(kind === "systemd" ? systemdPrograms : [])].map((name) => needTool(name, name)),
    ...(kind === "systemd" ? [systemd] : []),
    await Deno.realPath(Deno.execPath()),
  ];
  const own = binaries.at(-1)!;
  for (const path of new Set((await Promise.all(binaries.map(withLibraries))).flat())) {
    // Directories are links on merged systems; the name itself may be one, too.
    const slash = path.lastIndexOf("/");
    const target = path === own ? "/usr/bin/deno" : `${await Deno.realPath(path.slice(0, slash))}${path.slice(slash)}`;
    files.set(target.slice(1), { data: await Deno.readFile(path), mode: 0o755 });
  }
  const text = (path: string, content: string, mode = 0o644) =>
    files.set(path, { data: new TextEncoder().encode(content), mode });
  text("init", init, 0o755);
  text("kind", kind);
  text("launcher", `#!/bin/sh\nexec ${deno} /launcher.js "$@"\n`, 0o755);
  files.set("launcher.js", {
    data: await bundle("agents/node-agent/launcher/main.ts", `${dir}/launcher.js`),
    mode: 0o644,
  });
  files.set("checks.js", {
    data: await bundle("test-cluster/confinement/guest_checks.ts", `${dir}/checks.js`),
    mode: 0o644,
  });
  text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  text("etc/group", "root:x:0:\n");
  text("etc/machine-id", `${"0123456789abcdef".repeat(2)}\n`);
  text("etc/os-release", "ID=proof\nNAME=proof\n");
  text("etc/systemd/system.conf", "[Manager]\nDefaultStandardOutput=null\nDefaultTimeoutStopSec=10s\n");
  for (const [name, content] of Object.entries(units)) text(`etc/systemd/system/${name}`, content);
  const dirs = new Set(["proc", "sys", "dev", "run", "tmp", "root", "var", "usr/lib64", "usr/sbin"]);
  for (const path of files.keys()) {
    for (let at = path.indexOf("/"); at > 0; at = path.indexOf("/", at + 1)) dirs.add(path.slice(0, at));
  }
  const links = ["bin", "sbin", "lib", "lib64"];
  const entries: CpioEntry[] = [
    ...["usr", ...[...dirs].filter((dir) => dir !== "usr").sort()].map((path) => ({ kind: "dir", path }) as const),
    ...links.map((path) => ({ kind: "link", path, target: `usr/${path}` }) as const),
    { kind: "char", path: "dev/console", major: 5, minor: 1 },
    { kind: "char", path: "dev/null", major: 1, minor: 3, mode: 0o666 },
    ...[...files].map(([path, { data, mode }]) => ({ kind: "file", path, data, mode }) as const),
  ];
  return writeCpio(entries);
}

interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

/** Boots the guest and answers what it found; a fault with the end of its console when it does not come to an end. */
async function boot(kind: string, kernel: string, dir: string): Promise<Finding[]> {
  const initrd = `${dir}/initrd`;
  await Deno.writeFile(initrd, await tree(kind, dir));
  const child = new Deno.Command("qemu-system-x86_64", {
    args: [
      ...[
        "-nodefaults",
        "-no-user-config",
        "-machine",
        "pc",
        "-accel",
        "tcg,tb-size=256",
        "-cpu",
        "Nehalem",
        "-smp",
        "1",
      ],
      ...["-m", `${memoryMib}`, "-display", "none", "-no-reboot", "-serial", "stdio", "-device", "virtio-rng-pci"],
      ...["-kernel", kernel, "-initrd", initrd, "-append"],
      "console=ttyS0 quiet loglevel=4 panic=-1 rdinit=/init random.trust_cpu=on mitigations=off no_timer_check",
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), bootMsMax);
  const findings: Finding[] = [];
  let console_ = "", done = false;
  try {
    for await (const bytes of child.stdout) {
      console_ += new TextDecoder().decode(bytes);
      for (let end = console_.indexOf("\n"); end >= 0; end = console_.indexOf("\n")) {
        const line = console_.slice(0, end).replace(/\r$/, "");
        console_ = console_.slice(end + 1);
        const found = /UC_CHECK (\{.*\})$/.exec(line)?.[1];
        if (found !== undefined) {
          const finding = JSON.parse(found) as Finding;
          findings.push(finding);
          console.log(`${finding.ok ? "ok    " : "FAILED"} ${kind}: ${finding.name}\n       ${finding.detail}`);
        } else if (line.includes("UC_DONE")) done = true;
        else if (line.trim() !== "") console.log(`       | ${line}`);
      }
    }
  } finally {
    clearTimeout(timer);
    await child.status;
  }
  if (!done) {
    throw fault("unavailable", "guest_ended", `Cannot go on: the guest of ${kind} ended before it was through`);
  }
  return findings;
}

const work = Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${workspaceRoot}/work`;
const image = await buildTinyImage({ cacheDir: `${work}/cache/images`, onProgress: (text) => console.log(text) });
const dir = await Deno.makeTempDir({ prefix: "uc-confinement-" });
const findings: Finding[] = [];
try {
  await run("tar", ["-C", dir, "-xf", image.path, "kernel"]);
  for (const kind of Deno.args.length > 0 ? Deno.args : ["cgroup", "systemd"]) {
    findings.push(...await boot(kind, `${dir}/kernel`, dir));
  }
} finally {
  await Deno.remove(dir, { recursive: true });
}
const failed = findings.filter(({ ok }) => !ok).length;
console.log(`${findings.length - failed} passed, ${failed} failed, 0 skipped`);
Deno.exit(failed === 0 ? 0 : 1);
