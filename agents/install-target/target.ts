import { fault } from "@ultracloud/base";
import { BootstrapDeployer, Marks, readHandover, readSystemFile, type Run } from "@ultracloud/bootstrap";
import type { InstallTargetConfig } from "./config.ts";
import { bootedSystem, starts, withoutCounter } from "./domain/boot_entries.ts";

/**
 * Says that this boot went well: takes the counter from its boot entry, so that the loader goes on choosing it, and shows
 * `post-install.boot`. Whether the generation is any good is for nix-agent to find out. Answers what it did.
 */
export async function confirmBoot(
  config: InstallTargetConfig,
  deps: { readonly run: Run; readonly print: (line: string) => void },
  signal: AbortSignal,
): Promise<{ readonly system: string; readonly kept: readonly string[] }> {
  const handover = await readHandover(config.handoverDir);
  const marks = new Marks({ node: handover.node }, deps);
  const { deployer_url: url, bootstrap_token: token, ca_pem: caPem } = handover;
  using deployer = new BootstrapDeployer({ url, token, caPem });
  // Without a token it would be refused: the node's own agent speaks for it by now.
  if (token !== undefined) {
    const late = AbortSignal.any([signal, AbortSignal.timeout(config.postTimeoutMs)]);
    marks.postBy((marker) => deployer.marker(marker, late));
  }
  try {
    const system = bootedSystem(await readSystemFile(deps.run, config.cmdlineFile));
    if (system === undefined) {
      throw fault("failed_precondition", "system_unknown", "Cannot tell which system was booted: no init= names it");
    }
    const kept = await keepEntry(config.entriesDir, system);
    marks.show("post-install.boot", system);
    return { system, kept };
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "internal";
    marks.show("post-install.boot.failed", `${code}: ${error instanceof Error ? error.message : error}`);
    throw error;
  } finally {
    await marks.settled();
  }
}

/** Renames entries of the system that still count tries; answers their names before. */
async function keepEntry(dir: string, system: string): Promise<string[]> {
  const kept: string[] = [];
  for await (const { name, isFile } of Deno.readDir(dir)) {
    const plain = withoutCounter(name);
    if (!isFile || plain === name || !starts(await Deno.readTextFile(`${dir}/${name}`), system)) continue;
    await Deno.rename(`${dir}/${name}`, `${dir}/${plain}`);
    kept.push(name);
  }
  return kept;
}
