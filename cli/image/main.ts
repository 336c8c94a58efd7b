/** Builds the tiny guest image into the directory given and prints where it is as one JSON line. */
import { buildTinyImage } from "./mod.ts";

const [cacheDir] = Deno.args;
if (cacheDir === undefined) {
  console.error("Cannot build the guest image without a directory: wanted `main.ts <cache directory>`");
  Deno.exit(2);
}
const image = await buildTinyImage({ cacheDir, onProgress: (line) => console.error(line) });
console.log(JSON.stringify(image));
