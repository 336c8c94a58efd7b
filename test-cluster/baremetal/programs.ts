import { fault, permissionsOf, type Placement } from "@ultracloud/base";
import { loadFleet } from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { runTool } from "../harness/tools.ts";

/** Stands in a program's flags where a machine puts the hosts that it was told. */
export const hostsHole = "@HOSTS@";

/** Stands in a program's flags where a machine puts the directory that its programs lie in. */
export const programsHole = "@PROGRAMS@";

/** One component as a machine carries it: one file, and the flags that its manifest gives. */
export interface Program {
  readonly name: string;
  readonly path: string;
  readonly flags: readonly string[];
}

/** Bundles components of the workspace into `dir`; `placement` says where each lives on the machine. */
export async function bundleComponents(
  dir: string,
  names: readonly string[],
  placement: (name: string) => Placement,
): Promise<Program[]> {
  const fleet = await loadFleet(workspaceRoot);
  const programs: Program[] = [];
  for (const name of names) {
    const { manifest, dir: source } = fleet.get(name)!;
    const path = `${dir}/${name}.js`;
    await bundle(`${source}/${manifest.entry}`, path);
    const flags = ["--quiet", "--no-config", "--unstable-no-legacy-abort", ...permissionsOf(manifest, placement(name))];
    programs.push({ name, path, flags });
  }
  return programs;
}

/** Where a component lives on a machine of bare metal. Whom it may call is known when the machine has booted. */
export function placementOn(name: string, o: { readonly configDir: string; readonly trustFile: string }): Placement {
  const hole = { "deployer.bootstrap": [hostsHole], "deployer.rpc": [hostsHole], "chainfire.rpc": [hostsHole] };
  return {
    ...o,
    stateDir: `/var/lib/ultracloud/${name}`,
    runDir: `/run/ultracloud/${name}`,
    listen: { rpc: "0.0.0.0:7151" },
    callees: hole,
  };
}

async function bundle(entry: string, into: string): Promise<void> {
  const options = ["--quiet", "--frozen", `--config=${workspaceRoot}/deno.json`, "--platform=deno", "--no-check"];
  const argv = [Deno.execPath(), "bundle", ...options, `--output=${into}`, entry];
  const { code, stderr } = await runTool(argv, { timeoutMs: 300_000, cwd: workspaceRoot });
  if (code === 0) return;
  throw fault("unavailable", "bundle_failed", `Cannot bundle ${entry}: ${stderr.trim().slice(-600)}`);
}
