import type { ComponentManifest } from "@ultracloud/base";

const own = /^\$\{dir\.config\}\/(.+)$/;

/**
 * Puts the programs of a component that it may start and that are its own beside its configuration: `NAME/main.ts` of
 * its folder, run with everything granted, as it is for what no component may do itself. `deno`: the program and the
 * flags that run a source of this workspace.
 */
export async function placeHelpers(
  manifest: ComponentManifest,
  o: { readonly configDir: string; readonly sourceDir: string; readonly deno: readonly string[] },
): Promise<void> {
  for (const program of manifest.run) {
    const name = own.exec(program)?.[1];
    if (name === undefined) continue;
    const command = [...o.deno, "-A", `${o.sourceDir}/${name}/main.ts`].map(quote).join(" ");
    await Deno.writeTextFile(`${o.configDir}/${name}`, `#!/bin/sh\nexec ${command} "$@"\n`, { mode: 0o700 });
  }
}

/** One word of a POSIX shell. */
function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
