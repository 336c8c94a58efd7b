import { type ComponentManifest, fault, parseManifest } from "@ultracloud/base";

/** A manifest and the folder it stands in. */
export interface FleetMember {
  readonly manifest: ComponentManifest;
  /** Absolute path of the component's folder. */
  readonly dir: string;
}

/** Every component of the workspace at `root`, by name. Errors name the file at fault. */
export async function loadFleet(root: string): Promise<ReadonlyMap<string, FleetMember>> {
  const fleet = new Map<string, FleetMember>();
  for (const room of ["services", "agents"]) {
    const names: string[] = [];
    for await (const entry of Deno.readDir(`${root}/${room}`)) if (entry.isDirectory) names.push(entry.name);
    for (const name of names.sort()) {
      const dir = `${root}/${room}/${name}`;
      const file = `${room}/${name}/component.json`;
      let text: string;
      try {
        text = await Deno.readTextFile(`${root}/${file}`);
      } catch (cause) {
        if (cause instanceof Deno.errors.NotFound) continue;
        throw cause;
      }
      const manifest = parseManifest(text, file);
      if (manifest.name !== name) {
        throw fault(
          "invalid_argument",
          "manifest_invalid",
          `Cannot use ${file}: its name is ${manifest.name}, wanted ${name}`,
        );
      }
      fleet.set(name, { manifest, dir });
    }
  }
  return fleet;
}
