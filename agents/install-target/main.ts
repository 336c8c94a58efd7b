import { runOneShot, runProgram } from "@ultracloud/bootstrap";
import { configSchema, confirmBoot } from "./mod.ts";

const name = "install-target";

await runOneShot({ name, version: "0.1.0", schema: configSchema }, async (config, signal) => {
  const { system, kept } = await confirmBoot(config, { run: runProgram, print: console.log }, signal);
  console.log(`${name}: runs ${system}${kept.length === 0 ? "" : `; kept its boot entry ${kept.join(", ")}`}`);
});
