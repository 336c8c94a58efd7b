import { type ComponentManifest, permissionsOf, type Placement } from "@ultracloud/base";
import type { FleetMember } from "@ultracloud/launch";

export type Fleet = ReadonlyMap<string, FleetMember>;

/** What differs from site to site: the address a node binds and the network its peers are in. */
export interface Site {
  readonly listen: string;
  readonly peers: string;
}

const symbols: Site = { listen: "${listen_address}", peers: "${peers_cidr}" };

/** Where packages and units put a component; without a site its addresses stay symbols. */
export function productionPlacement(manifest: ComponentManifest, fleet: Fleet, site: Site = symbols): Placement {
  const listen: Record<string, string> = {};
  for (const [name, { port }] of Object.entries(manifest.listen)) listen[name] = `${site.listen}:${port}`;
  const callees: Record<string, string[]> = {};
  for (const callee of manifest.calls) {
    const port = listenerPort(fleet, callee);
    if (port !== undefined) callees[callee] = [`${site.peers}:${port}`];
  }
  return {
    configDir: `/etc/ultracloud/${manifest.name}`,
    stateDir: `/var/lib/ultracloud/${manifest.name}`,
    runDir: `/run/ultracloud/${manifest.name}`,
    trustFile: "/etc/ultracloud/trust.json",
    credentialsDir: `/run/credentials/${manifest.name}.service`,
    listen,
    callees,
  };
}

function listenerPort(fleet: Fleet, callee: string): number | undefined {
  const [component = "", listener = ""] = callee.split(".");
  return fleet.get(component)?.manifest.listen[listener]?.port;
}

/** What is wrong between the manifests of a fleet, as sentences; each alone is already valid. */
export function judgeFleet(fleet: Fleet): string[] {
  const found: string[] = [];
  const ports = new Map<number, string>();
  for (const [name, { manifest }] of fleet) {
    for (const [listener, { port }] of Object.entries(manifest.listen)) {
      const other = ports.get(port);
      if (other) found.push(`Cannot give port ${port} to ${name}.${listener}: ${other} has it`);
      else ports.set(port, `${name}.${listener}`);
    }
    for (const callee of manifest.calls) {
      if (listenerPort(fleet, callee) === undefined) {
        found.push(`Cannot let ${name} call ${callee}: no component has that listener`);
      }
    }
    const flags = placeable(manifest, fleet) ? permissionsOf(manifest, productionPlacement(manifest, fleet)) : [];
    for (const flag of flags) {
      if (/^(-A|--allow-(all|ffi|import)|--allow-[a-z]+)$/.test(flag)) {
        found.push(`Cannot grant ${flag} to ${name}: wanted a list of what it needs`);
      }
    }
  }
  return found;
}

function placeable(manifest: ComponentManifest, fleet: Fleet): boolean {
  return manifest.calls.every((callee) => listenerPort(fleet, callee) !== undefined);
}

/** A flag on one line, or one grant per line when that is too long to compare in a review. */
function flagLines(flag: string): string[] {
  const [name = "", grants = ""] = flag.split(/=(.*)/s);
  if (flag.length <= 160) return [`  ${flag}`];
  return [`  ${name}=`, ...grants.split(",").map((grant) => `      ${grant}`)];
}

/** The golden text: every component with its listeners, callees and flags. */
export function formatFleet(fleet: Fleet): string {
  const lines = [
    "# What each component may do, derived from its component.json. Written by `deno task permissions --update`.",
    "# ${listen_address} and ${peers_cidr} are the site's: the address a node binds, the network its peers are in.",
  ];
  for (const name of [...fleet.keys()].sort()) {
    const { manifest } = fleet.get(name) as FleetMember;
    const listeners = Object.entries(manifest.listen).map(([key, { port, scheme }]) => `${key} ${port} ${scheme}`);
    lines.push("", `${name} (${manifest.kind}): ${manifest.summary}`);
    lines.push(`  listens  ${listeners.join(", ") || "nowhere"}`);
    lines.push(`  calls    ${[...manifest.calls].sort().join(", ") || "nobody"}`);
    lines.push(`  starts   ${[...manifest.run].sort().join(", ") || "no program"}`);
    if (!placeable(manifest, fleet)) continue;
    for (const flag of permissionsOf(manifest, productionPlacement(manifest, fleet))) lines.push(...flagLines(flag));
  }
  return lines.join("\n") + "\n";
}
