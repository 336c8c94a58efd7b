import type { ComponentManifest } from "@ultracloud/base";
import type { FleetMember } from "@ultracloud/launch";

/**
 * The unit that a component's manifest asks for, written a second time and apart from nix/lib/unit.nix: what both say is
 * what was meant. Systemd's names and values; lists are without order.
 */
export interface ExpectedUnit {
  readonly serviceConfig: Readonly<Record<string, unknown>>;
  readonly tcp: readonly number[];
  readonly udp: readonly number[];
  /** Packages of nixpkgs on its PATH. */
  readonly packages: readonly string[];
  readonly restartIfChanged: boolean;
}

/** nix/lib/programs.json */
export type Programs = Readonly<
  Record<string, { readonly package: string | null; readonly needs: readonly string[] } | undefined>
>;

const helper = /^\$\{dir\.config\}\//;

function needsOf(manifest: ComponentManifest, programs: Programs): Set<string> {
  const needs = new Set<string>();
  for (const program of manifest.run) {
    for (const need of helper.test(program) ? ["host"] : programs[program]!.needs) needs.add(need);
  }
  if (manifest.write.some((path) => path.startsWith("/") || path.startsWith("${dir.etc}"))) needs.add("files");
  return needs;
}

/** Components in whose run directory the manifest reaches. */
function partnersOf(manifest: ComponentManifest): string[] {
  const paths = [...manifest.sockets, ...manifest.write, ...manifest.read];
  const found = paths.flatMap((path) => /^\$\{dir\.runs\}\/([a-z0-9-]+)\//.exec(path)?.[1] ?? []);
  return [...new Set(found)].filter((name) => name !== manifest.name).sort();
}

export function expectedUnit(
  manifest: ComponentManifest,
  fleet: ReadonlyMap<string, FleetMember>,
  programs: Programs,
): ExpectedUnit {
  const { name, kind } = manifest;
  const needs = needsOf(manifest, programs);
  const tool = kind === "tool";
  const host = needs.has("host");
  const root = host || needs.has("files");
  const network = needs.has("network");
  const machines = needs.has("machines");
  const shared = [...fleet.values()].some((other) => partnersOf(other.manifest).includes(name));
  const outlived = network || machines || manifest.run.some((program) => helper.test(program));
  const ports = Object.values(manifest.listen);
  const speaks = ports.length + manifest.calls.length + manifest.netExtra.length > 0;
  const capabilities = [
    ...network ? ["CAP_NET_ADMIN", "CAP_NET_RAW"] : [],
    ...ports.some(({ port }) => port < 1024) ? ["CAP_NET_BIND_SERVICE"] : [],
    ...needs.has("files") ? ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"] : [],
  ];
  const outside = manifest.write
    .filter((path) => !/^\$\{dir\.(state|run)\}/.test(path))
    .map((path) => path.replace("${dir.runs}", "/run/ultracloud").replace("${dir.etc}", "/etc/ultracloud"))
    .map((path) => path.startsWith("/run/ultracloud/") ? path.slice(0, path.lastIndexOf("/")) : path);

  const serviceConfig: Record<string, unknown> = {
    Type: tool ? "oneshot" : "exec",
    ...tool ? { RemainAfterExit: true } : { Restart: "on-failure", RestartSec: 1 },
    User: root ? "root" : `uc-${name}`,
    Group: root ? "root" : `uc-${name}`,
    SupplementaryGroups: [...partnersOf(manifest).map((other) => `uc-${other}`), ...machines ? ["kvm"] : []],
    StateDirectory: `ultracloud/${name}`,
    StateDirectoryMode: "0700",
    RuntimeDirectory: `ultracloud/${name}`,
    RuntimeDirectoryMode: shared ? "0750" : "0700",
    ...outlived ? { KillMode: "process", RuntimeDirectoryPreserve: "yes" } : {},
    LockPersonality: true,
    RestrictRealtime: true,
    SystemCallArchitectures: "native",
    UMask: host ? "0022" : shared ? "0007" : "0077",
    ...host ? {} : {
      NoNewPrivileges: true,
      ProtectSystem: "strict",
      ProtectHome: true,
      PrivateTmp: true,
      PrivateDevices: !network && !machines,
      ProtectClock: true,
      ProtectControlGroups: true,
      ProtectHostname: true,
      ProtectKernelLogs: true,
      ProtectKernelModules: true,
      ProtectKernelTunables: !network,
      ProtectProc: needs.has("processes") ? "default" : "invisible",
      RestrictNamespaces: true,
      RestrictSUIDSGID: true,
      RestrictAddressFamilies: [
        "AF_UNIX",
        ...speaks ? ["AF_INET", "AF_INET6"] : [],
        ...network ? ["AF_NETLINK", "AF_PACKET"] : [],
      ],
      SystemCallFilter: ["@system-service", "@pkey"],
      SystemCallErrorNumber: "EPERM",
      CapabilityBoundingSet: capabilities.length === 0 ? "" : capabilities,
      AmbientCapabilities: root || capabilities.length === 0 ? "" : capabilities,
      ReadWritePaths: [...new Set(outside)].map((path) => `-${path}`),
      ...network || machines
        ? { DevicePolicy: "closed", DeviceAllow: ["/dev/net/tun rw", ...machines ? ["/dev/kvm rw"] : []] }
        : {},
    },
  };
  const packages = manifest.run.flatMap((program) => helper.test(program) ? [] : programs[program]!.package ?? []);
  return {
    serviceConfig,
    tcp: ports.map(({ port }) => port),
    udp: ports.filter(({ scheme }) => scheme === "dns").map(({ port }) => port),
    packages: [...new Set(packages)],
    restartIfChanged: !manifest.run.includes("systemd-run"),
  };
}
