/** What this host can do for UltraCloud, and the exact command for what is missing. */

export type Verdict = "ok" | "limited" | "missing";

export interface Finding {
  readonly check: string;
  readonly verdict: Verdict;
  readonly found: string;
  /** What to do; empty when nothing is to be done. */
  readonly remedy: string;
}

/** Programs the quickstart needs, and the Debian/Ubuntu package of each. */
const programs: readonly { readonly program: string; readonly pkg: string; readonly use: string }[] = [
  { program: "qemu-system-x86_64", pkg: "qemu-system-x86", use: "runs VMs" },
  { program: "qemu-img", pkg: "qemu-utils", use: "makes VM disks" },
  { program: "dpkg-deb", pkg: "dpkg", use: "unpacks the guest's kernel" },
  { program: "apt-get", pkg: "apt", use: "fetches the guest's kernel" },
];
/** Programs of the network engine `ovn`; without them guests have user networking. */
const ovnPrograms: readonly { readonly program: string; readonly pkg: string }[] = [
  { program: "ovs-vswitchd", pkg: "openvswitch-switch" },
  { program: "ovsdb-server", pkg: "openvswitch-switch" },
  { program: "ovn-controller", pkg: "ovn-host" },
  { program: "ovn-northd", pkg: "ovn-central" },
  { program: "ip", pkg: "iproute2" },
  { program: "ethtool", pkg: "ethtool" },
];
/** Memory and disk below these make the quickstart slow or impossible. */
const memoryBytesMin = 2 * 2 ** 30;
const diskBytesMin = 2 * 2 ** 30;

export interface HostReport {
  readonly findings: readonly Finding[];
  /** Debian packages to install, without those present. */
  readonly missingPackages: readonly string[];
  readonly root: boolean;
  readonly installCommand: string;
  /** Why tenant networks cannot be on OVN here; empty: they can. */
  readonly whyNoOvn: string;
}

/** Looks at the host; starts only `df` and `uname`-like readers, changes nothing. */
export async function examineHost(
  options: { readonly workRoot: string; readonly ports: readonly number[] },
): Promise<HostReport> {
  const root = Deno.uid() === 0;
  const findings: Finding[] = [];
  const add = (check: string, verdict: Verdict, found: string, remedy = "") =>
    findings.push({ check, verdict, found, remedy });

  add(
    "system",
    Deno.build.os === "linux" && Deno.build.arch === "x86_64" ? "ok" : "missing",
    `${Deno.build.os} ${Deno.build.arch}`,
    Deno.build.os === "linux" && Deno.build.arch === "x86_64" ? "" : "VMs run on Linux x86_64 only",
  );
  add("deno", "ok", Deno.version.deno);
  add(
    "user",
    root ? "ok" : "limited",
    root ? "root" : `uid ${Deno.uid()}`,
    root ? "" : "works with user networking; OVN networks need root",
  );
  const memory = Deno.systemMemoryInfo();
  add(
    "memory",
    memory.available >= memoryBytesMin ? "ok" : "limited",
    `${Math.round(memory.available / 2 ** 20)} MiB available`,
    memory.available >= memoryBytesMin ? "" : "2 GiB are comfortable",
  );
  const free = await freeBytes(options.workRoot);
  add(
    "disk",
    free === undefined || free >= diskBytesMin ? "ok" : "limited",
    free === undefined ? "unknown" : `${Math.round(free / 2 ** 20)} MiB free`,
    free === undefined || free >= diskBytesMin ? "" : "set ULTRACLOUD_WORK_ROOT to a larger disk",
  );

  const missingPackages: string[] = [];
  for (const { program, pkg, use } of programs) {
    const path = findProgram(program);
    if (path === undefined) missingPackages.push(pkg);
    add(
      program,
      path === undefined ? "missing" : "ok",
      path ?? `not found (${use})`,
      path === undefined ? `install ${pkg}` : "",
    );
  }
  const installCommand = `${root ? "" : "sudo "}apt-get install -y --no-install-recommends ${
    missingPackages.join(" ")
  }`;
  const whyNoOvn = ovnReason(root);
  const ovnMissing = missingOvn();
  add(
    "network engine",
    whyNoOvn === "" ? "ok" : "limited",
    whyNoOvn === "" ? "ovn" : `user: ${whyNoOvn}`,
    ovnMissing.length === 0 ? "" : `apt-get install -y --no-install-recommends ${ovnMissing.join(" ")}`,
  );
  add(
    "kvm",
    exists("/dev/kvm") ? "limited" : "limited",
    exists("/dev/kvm") ? "/dev/kvm present" : "no /dev/kvm",
    exists("/dev/kvm") ? "a boot probe decides; TCG otherwise" : "VMs run under TCG, slower but complete",
  );
  const taken = options.ports.filter(portTaken);
  add(
    "ports",
    taken.length === 0 ? "ok" : "limited",
    taken.length === 0 ? `${options.ports.length} free` : `taken: ${taken.join(", ")}`,
    taken.length === 0 ? "" : "another UltraCloud or program listens there",
  );
  return { findings, missingPackages, root, installCommand, whyNoOvn };
}

function missingOvn(): string[] {
  return [...new Set(ovnPrograms.filter(({ program }) => !findProgram(program)).map(({ pkg }) => pkg))];
}

function ovnReason(root: boolean): string {
  if (!root) return "OVN needs root, for a network namespace and taps";
  const missing = missingOvn();
  if (missing.length > 0) return `OVN needs the packages ${missing.join(", ")}`;
  return exists("/dev/net/tun") ? "" : "OVN needs /dev/net/tun, for taps";
}

/** Absolute path of a program on PATH or in the system's sbin directories. */
export function findProgram(name: string): string | undefined {
  for (const dir of [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"]) {
    if (dir !== "" && exists(`${dir}/${name}`)) return `${dir}/${name}`;
  }
  return undefined;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

function portTaken(port: number): boolean {
  try {
    Deno.listen({ hostname: "127.0.0.1", port }).close();
    return false;
  } catch {
    return true;
  }
}

async function freeBytes(dir: string): Promise<number | undefined> {
  for (let at = dir; at !== ""; at = at.slice(0, at.lastIndexOf("/"))) {
    if (!exists(at)) continue;
    try {
      const { stdout, success } = await new Deno.Command("df", { args: ["-B1", "--output=avail", at] }).output();
      if (!success) return undefined;
      const bytes = Number(new TextDecoder().decode(stdout).trim().split("\n").at(-1));
      return Number.isFinite(bytes) ? bytes : undefined;
    } catch {
      return undefined;
    }
  }
  return undefined;
}
