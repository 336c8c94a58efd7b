import { NixAgentService } from "@ultracloud/proto/nixagent/v1";
import type { Cluster } from "./cluster.ts";

/** What each nix-agent of the cluster that runs found on its host: a line for each, with the reason where it has no Nix. */
export async function nixReasons(cluster: Cluster): Promise<string[]> {
  const lines: string[] = [];
  for (const node of cluster.nodesWith("nix-agent")) {
    const agent = cluster.clients.of(NixAgentService, "nix-agent", { node });
    const { launcher, nix, nixFound } = await agent.getStatus({});
    lines.push(`nix-agent on ${node}: ${nixFound ? nix : `cannot switch, as there is no Nix (${nix})`}; ${launcher}`);
  }
  return lines;
}
