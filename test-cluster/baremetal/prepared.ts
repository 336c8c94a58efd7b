import { clusterHome } from "../harness/home.ts";
import { type Accelerator, probeAccelerator } from "./accelerator.ts";
import { buildIso, buildParts, type Iso } from "./iso.ts";
import { buildSystems, type Systems } from "./systems.ts";

/** What the lane needs and can only fetch while the host's network is there. */
export interface Prepared {
  readonly iso: Iso;
  readonly systems: Systems;
  readonly accelerator: Accelerator;
}

const file = () => `${clusterHome((name) => Deno.env.get(name)).cacheDir}/baremetal/prepared.json`;

/** Builds, or finds, the medium and the systems of the lane. */
export async function prepareBareMetal(): Promise<void> {
  const { cacheDir } = clusterHome((name) => Deno.env.get(name));
  const say = (text: string) => console.log(text);
  const parts = await buildParts(cacheDir, say);
  const prepared: Prepared = {
    iso: await buildIso(cacheDir, say, parts),
    systems: await buildSystems(cacheDir, parts, say),
    accelerator: await probeAccelerator(cacheDir, parts.kernel),
  };
  await Deno.writeTextFile(`${file()}.new`, JSON.stringify(prepared, null, 2) + "\n");
  await Deno.rename(`${file()}.new`, file());
}

export async function readPrepared(): Promise<Prepared> {
  return JSON.parse(await Deno.readTextFile(file())) as Prepared;
}
