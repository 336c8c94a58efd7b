import type { ComponentManifest } from "@ultracloud/base";

const own = /^\$\{dir\.config\}\/(.+)$/;

/** Names of the programs that a component may start and that are its own: `NAME/main.ts` of its folder. */
export function helpersOf(manifest: ComponentManifest): string[] {
  return manifest.run.flatMap((program) => own.exec(program)?.[1] ?? []);
}

/**
 * Puts the helpers of a component beside its configuration, as programs. `commandOf` says what runs one where the
 * component will be, with everything granted, as a helper is for what no component may do itself.
 */
export async function placeHelpers(
  manifest: ComponentManifest,
  o: { readonly configDir: string; readonly commandOf: (name: string) => readonly string[] },
): Promise<void> {
  for (const name of helpersOf(manifest)) {
    const command = o.commandOf(name).map(quote).join(" ");
    await Deno.writeTextFile(`${o.configDir}/${name}`, `#!/bin/sh\nexec ${command} "$@"\n`, { mode: 0o700 });
  }
}

/** Where the source of a helper is, in the folder of its component. */
export function helperSource(sourceDir: string, name: string): string {
  return `${sourceDir}/${name}/main.ts`;
}

/** One word of a POSIX shell. */
function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
