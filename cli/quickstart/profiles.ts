import { fault } from "@ultracloud/base";

/** A supported shape of a cluster: what must run in it, and what may. */
export interface Profile {
  readonly name: string;
  readonly summary: string;
  readonly required: readonly string[];
  readonly optional: readonly string[];
}

/** The canonical profiles, as data: the quickstart starts the first, the others describe installed clusters. */
export const profiles = {
  "single-node-dev": {
    name: "single-node dev",
    summary: "The VM platform on one machine",
    required: ["chainfire", "flaredb", "iam", "prismnet", "plasmavmc", "vm-agent"],
    optional: [
      "net-agent",
      "lightningstor",
      "coronafs",
      "flashdns",
      "fiberlb",
      "apigateway",
      "nightlight",
      "creditservice",
      "k8shost",
      "mtls-agent",
    ],
  },
  "ha-control-plane": {
    name: "3-node HA control plane",
    summary: "chainfire, flaredb and iam on three nodes, deployer on the first",
    required: ["chainfire", "flaredb", "iam", "nix-agent", "deployer"],
    optional: [
      "fleet-scheduler",
      "node-agent",
      "mtls-agent",
      "prismnet",
      "flashdns",
      "fiberlb",
      "plasmavmc",
      "lightningstor",
      "coronafs",
      "k8shost",
      "apigateway",
      "nightlight",
      "creditservice",
    ],
  },
  "bare-metal-bootstrap": {
    name: "bare-metal bootstrap",
    summary: "From an installer image to a converged node",
    required: ["deployer", "first-boot-automation", "install-target", "nix-agent"],
    optional: ["node-agent", "fleet-scheduler"],
  },
} as const satisfies Record<string, Profile>;

/**
 * Components to start: what the profile requires, and what was asked for beside it. `built` is what this workspace
 * has; asking for more is refused by name.
 */
export function componentsOf(profile: Profile, asked: readonly string[], built: ReadonlySet<string>): string[] {
  for (const name of asked) {
    if (profile.required.includes(name)) continue;
    if (!profile.optional.includes(name)) {
      throw fault(
        "invalid_argument",
        "component_unknown",
        `Cannot add ${name} to ${profile.name}: wanted one of ${profile.optional.join(", ")}`,
      );
    }
    if (!built.has(name)) {
      throw fault(
        "failed_precondition",
        "component_not_built",
        `Cannot add ${name} to ${profile.name}: this release does not have it yet`,
      );
    }
  }
  return [...new Set([...profile.required, ...asked])];
}
