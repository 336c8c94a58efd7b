import { type Command, parseFlags } from "./_command.ts";
import { formatTotals, runStages, type Stage } from "./_stages.ts";
import { workRoot } from "./_workspace.ts";

const minute = 60_000;
/** What is tried of Nix, and in which file. */
const parts: readonly (readonly [name: string, file: string])[] = [
  ["outputs", "nix/check/outputs_test.ts"],
  ["cluster schema", "nix/lib/cluster_schema_test.ts"],
  ["planted mistakes", "nix/check/mistakes_test.ts"],
  ["units", "nix/check/units_test.ts"],
  ["configurations", "nix/check/config_test.ts"],
  ["scripts", "nix/check/scripts_test.ts"],
  ["disk layouts", "nix/check/disko_test.ts"],
];
/** Not in `deno task test`: it asks npm for what deno.lock names. */
const packaging = ["packaging", "nix/check/packaging_proof.ts"] as const;

/** What `deno task test` runs of it, in one stage. */
export const nixTests: readonly string[] = parts.map(([, file]) => file);

/** Evaluates the flake without nixpkgs and holds it against manifests, schemas and the test cluster. */
export const nixCheckCommand: Command = {
  name: "nix-check",
  help: `deno task nix:check

The Nix side without nixpkgs: every file parses; the cluster schema refuses what the components refuse; the unmodified
flake has every output, refuses planted mistakes, and gives each component the unit, permissions and configuration of
its component.json; packages compile from deno.lock alone. Nixpkgs is stood in for by nix/stub: what holds is
stub-evaluated, not built.

  UC_NIXPKGS_LIB=DIR   a checkout of nixpkgs' lib (github:nix-community/nixpkgs.lib): everything again with it
  UC_DISKO=DIR         a checkout of disko: the disk layouts under its own types, with the above

Needs root on Linux and a Debian mirror: a Nix of the distribution is unpacked into work/cache, nothing is installed.
The last line is the count; the exit code is 1 when anything failed.`,
  async run(args, root) {
    parseFlags({ args: [...args], options: {} });
    const stages = [...parts, packaging].map(([name, file]): Stage => ({
      name,
      args: ["test", "-q", "--frozen", "-A", file],
      timeoutMs: 10 * minute,
      countsTests: true,
    }));
    const totals = await runStages(stages, { root, logDir: `${workRoot(root)}/nix-check` });
    console.log(formatTotals(totals));
    return totals.failed === 0 ? 0 : 1;
  },
};
