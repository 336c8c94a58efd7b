import { Marks, parseCmdline, readSystemFile, runOneShot, runProgram } from "@ultracloud/bootstrap";
import { Fault, systemClock, systemRng } from "@ultracloud/base";
import { failureMarkers } from "@ultracloud/cluster-state";
import { configSchema, install } from "./mod.ts";

const name = "installer";
const version = "0.1.0";

await runOneShot({ name, version, schema: configSchema }, async (config, signal) => {
  const marks = new Marks({ node: "" }, { print: console.log });
  let parameters;
  try {
    parameters = parseCmdline(await readSystemFile(runProgram, config.cmdlineFile));
  } catch (error) {
    if (error instanceof Fault) marks.show(failureMarkers["pre-install.boot"], `${error.code}: ${error.message}`);
    throw error;
  }
  await install(config, parameters, {
    run: runProgram,
    marks,
    clock: systemClock,
    rng: systemRng,
    version,
    freshId: crypto.randomUUID(),
    say: (text) => console.log(`${name}: ${text}`),
  }, signal);
});
